"""What was left out, told by reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

# Reasons that begin with the path of a picture differ in it alone.
OF_A_PICTURE = re.compile(r"^.+?(?= (?:is missing|is not a picture|cannot be read to its end)\b)")


def reasons(left_out: Sequence[Mapping[str, str]], where: str = "", most: int = 10) -> list[str]:
    """A line a reason, the commonest first: how many items it holds for, and the names of the first.

    where: said behind "and more", of which the other reasons can be read.
    """
    groups: dict[str, list[tuple[str, str]]] = {}
    for item in left_out:
        kind = OF_A_PICTURE.sub("", item["reason"])
        groups.setdefault(kind, []).append((str(item["prompt_id"]), item["reason"]))
    lines = [_line(group) for group in sorted(groups.values(), key=lambda group: -len(group))]
    return lines[:most] + ([f"... and more{where}"] if len(lines) > most else [])


def _line(group: Sequence[tuple[str, str]]) -> str:
    ids, reason = [name for name, _ in group], group[0][1]
    some = f"{', '.join(ids[:3])}{', ...' if len(ids) > 3 else ''}"
    if len(ids) == 1:
        return f"1: {reason} ({some})"
    if len({text for _, text in group}) > 1:
        return f"{len(ids)} such as {ids[0]}: {reason}"
    return f"{len(ids)}: {reason} ({some})"
