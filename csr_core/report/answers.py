"""Answers of the base and of the last model side by side, with what they name and is not in the picture marked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csr_core.errors import InputError
from csr_core.evaluation.chair import image_key
from csr_core.evaluation.objects import ObjectParser
from csr_core.evaluation.sources import read_rows
from csr_core.evaluation.splits import Split, read_split
from csr_core.layout import Layout
from csr_core.report.sample import spread
from csr_core.report.trees import Pictures

SHOWN = 24  # answers on the page, shared out among the splits

Piece = tuple[str, str]  # a piece of an answer and what it is: "", right, wrong


@dataclass(frozen=True)
class Compared:
    """One picture's answers: of each model its `pieces`, cut at what it names, and how many of these are `wrong`."""

    prompt: str
    picture: int | None  # its place among the page's pictures
    pieces: tuple[list[Piece], list[Piece]]
    wrong: tuple[int, int]


@dataclass(frozen=True)
class Answers:
    """Some answers of a split, from the most improved to the most worsened, and how many of all are which."""

    split: str
    total: int
    better: int
    same: int
    worse: int
    examples: list[Compared]


def compared_answers(
    layout: Layout, last: int, splits: Mapping[str, Path], pictures: Pictures, shown: int = SHOWN
) -> list[Answers]:
    """Of each split (name -> its folder) that has descriptions of the base and of iteration `last`; `shown` in all.

    Examples lie at equal distances in the order of the change, so that the page shows them in proportion.
    """
    found = []
    for name, folder in splits.items():
        files = [layout.answers(k) / f"{name}_captions.jsonl" for k in (0, last)]
        if not all(file.is_file() for file in files):
            continue
        try:
            split = read_split(name, folder)
        except InputError:  # moved away since it was measured: there is nothing to mark answers by
            continue
        if rows := _rows(split, files):
            found.append(_answers(split, rows, pictures, max(2, shown // len(splits))))
    return found


Row = tuple[str, Any, list[dict[str, Any]]]  # prompt, image id, the two models' rows


def _rows(split: Split, files: Sequence[Path]) -> list[tuple[int, Row]]:
    """(change in hallucinated mentions, row) of each picture that both models answered, the most improved first."""
    before, after = (_by_picture(read_rows(file, ("image_id", "prompt", "caption"))) for file in files)
    found = []
    for image, prompt in before.keys() & after.keys():
        if image in split.truth:
            both = [before[image, prompt], after[image, prompt]]
            wrong = [_wrong(row["caption"], split.parser, split.truth[image]) for row in both]
            found.append((wrong[1] - wrong[0], (prompt, image, both)))
    return sorted(found, key=lambda entry: (entry[0], str(entry[1][1]), entry[1][0]))


def _by_picture(rows: Sequence[dict[str, Any]]) -> dict[tuple[Any, str], dict[str, Any]]:
    """The first answer to each (image id, prompt)."""
    return {(image_key(row["image_id"]), row["prompt"]): row for row in reversed(rows)}


def _wrong(text: str, parser: ObjectParser, truth: set[str]) -> int:
    return sum(name not in truth for name in parser.mentions(text))


def _answers(split: Split, rows: Sequence[tuple[int, Row]], pictures: Pictures, shown: int) -> Answers:
    paths = {row["image_id"]: str(row["path"]) for row in split.captions}
    examples = []
    for _, (prompt, image, both) in spread(rows, shown):
        picture = pictures.add(paths[image]) if image in paths else None
        before, after = (marked(row["caption"], split.parser, split.truth[image]) for row in both)
        counts = [sum(kind == "wrong" for _, kind in pieces) for pieces in (before, after)]
        examples.append(Compared(prompt, picture, (before, after), (counts[0], counts[1])))
    signs = Counter((change > 0) - (change < 0) for change, _ in rows)
    return Answers(split.name, len(rows), signs[-1], signs[0], signs[1], examples)


def marked(text: str, parser: ObjectParser, truth: set[str]) -> list[Piece]:
    """`text` cut at its mentions of objects: the pieces joined give the text.

    "A dog and a fork." with a dog alone in the picture: ("A ", ""), ("dog", right), (" and a ", ""), ("fork", wrong),
    (".", "").
    """
    pieces: list[Piece] = []
    at = 0
    for start, end, name in parser.spans(text):
        pieces += [(text[at:start], ""), (text[start:end], "right" if name in truth else "wrong")]
        at = end
    return [piece for piece in [*pieces, (text[at:], "")] if piece[0]]
