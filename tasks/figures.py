"""A picture for the MLflow page alone: some pairs with their pictures. The others are csr_core.report's."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csr_core.errors import InputError
from csr_core.images import open_image
from csr_core.report.curves import CHOSEN, REJECTED, saved
from csr_core.report.sample import spread

PAIRS = 4
LINES, LINE = 10, 50  # of a text beside a picture: lines, characters a line


def some_pairs(pairs: Sequence[Mapping[str, Any]], root: Path, title: str, count: int = PAIRS) -> bytes:
    """A few pairs, from the largest margin to the smallest: the picture, and beside it both answers.

    `root` is the folder that relative paths of pictures start from. A picture that is gone leaves its place empty.
    """
    from matplotlib.figure import Figure

    shown = spread(sorted(pairs, key=lambda pair: (-(pair["margin"] or 0.0), pair["prompt_id"])), count)
    figure = Figure(figsize=(11, 2.4 * len(shown) + 0.4), layout="constrained")
    figure.suptitle(title, parse_math=False)
    panels = figure.subplots(len(shown), 2, squeeze=False, width_ratios=(1, 3))
    for (left, right), pair in zip(panels, shown, strict=True):
        left.axis("off")
        right.axis("off")
        try:
            left.imshow(open_image(root / pair["images"][0]), interpolation="nearest")
        except InputError:
            left.text(0.5, 0.5, "picture not found", ha="center", transform=left.transAxes)
        asked = _text(pair["prompt"])
        scored = pair["margin"] is not None  # imported pairs need not be
        margin = f"  (margin {pair['margin']:.3g})" if scored else ""
        right.set_title(f"{_wrapped(asked, 2, 2 * LINE)}{margin}", loc="left", fontsize=9, parse_math=False)
        for place, side, colour in ((0.0, "chosen", CHOSEN), (0.5, "rejected", REJECTED)):
            heading = f"{side}, {pair[f'{side}_reward']:.3g}" if scored else side
            right.text(place, 0.98, heading, color=colour, weight="bold", va="top", transform=right.transAxes)
            answer = _wrapped(_text(pair[side]), LINES, LINE)
            right.text(place, 0.86, answer, fontsize=9, va="top", transform=right.transAxes, parse_math=False)
    return saved(figure)


def _text(messages: Sequence[Mapping[str, str]]) -> str:
    return " ".join(message["content"].strip() for message in messages)


def _wrapped(text: str, lines: int, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" ..."))
