"""The pictures of the MLflow page, each as PNG. Drawn without pyplot, whose state threads would share."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csr_core.errors import InputError
from csr_core.images import open_image
from csr_core.report import plot_metrics

PAIRS = 4
LINES, LINE = 10, 50  # of a text beside a picture: lines, characters a line
DPI = 110
CHOSEN, REJECTED = "tab:green", "tab:red"


def metrics_by_iteration(figures: Sequence[Mapping[str, Any]], split: str) -> bytes:
    """Curves of a split's main figures with their intervals; `figures` are the metrics of the base, 1, 2, ..."""
    drawable = [{split: {n: _clean(i) for n, i in m[split].items() if i["value"] is not None}} for m in figures]
    return plot_metrics({"run": drawable}, split)


def _clean(interval: Mapping[str, Any]) -> dict[str, Any]:
    """An interval that holds its value: one that was not computed, or lies beside the value, cannot be drawn."""
    value = interval["value"]
    ends = [value, *(interval[end] for end in ("low", "high") if interval[end] is not None)]
    return {"value": value, "low": min(ends), "high": max(ends)}


def rewards(pairs: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """How the rewards of chosen and of rejected answers are spread; rows as in preferences.parquet, at least one."""
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    sides = {"chosen": CHOSEN, "rejected": REJECTED}
    values = {side: np.array([pair[f"{side}_reward"] for pair in pairs]) for side in sides}
    bins = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=30).tolist()
    for side, colour in sides.items():
        axes.hist(values[side], bins=bins, alpha=0.5, color=colour, label=f"{side}, mean {values[side].mean():.3g}")
        axes.axvline(values[side].mean(), color=colour, linestyle="--")
    axes.set(title=f"{title}: {len(pairs)} pairs", xlabel="reward of the answer", ylabel="answers")
    axes.legend()
    return _png(figure)


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
    return _png(figure)


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """`count` items at equal distances, first and last among them; all where there are no more."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def _text(messages: Sequence[Mapping[str, str]]) -> str:
    return " ".join(message["content"].strip() for message in messages)


def _wrapped(text: str, lines: int, width: int) -> str:
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" ..."))


def _png(figure: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Letters the font lacks are drawn as boxes; a line a letter in the log helps nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
