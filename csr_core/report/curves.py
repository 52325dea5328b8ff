"""Drawings of a run, as PNG or SVG: the same on the page, in MLflow and in Prefect.

Colours are Okabe and Ito's, told apart by the colour-blind; what matters also differs in line or marker. Drawn without
pyplot, whose state threads would share.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from csr_core.report.figures import COLUMNS

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

CURVES = ("chair_i", "recall", "pope_accuracy")
CHOSEN, REJECTED = "#0072b2", "#d55e00"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
MARKERS = "osD^vPX"
DPI = 110

Form = Literal["png", "svg"]


def plot_metrics(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], split: str | None = None, form: Form = "png"
) -> bytes:
    """A panel for each of CURVES that was measured; a line with its 95 % interval for each named run.

    `runs`: name -> the metrics of the base, iteration 1, 2, ...; `split`: None takes each run's first.
    """
    drawn = {name: _lines(runs, split, name) for name in CURVES}
    shown = [name for name in CURVES if drawn[name]] or CURVES[:1]
    figure = _figure(4 * len(shown), 3.6)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    labels = list(runs)
    for panel, name in zip(panels, shown, strict=True):
        for label, values in drawn[name].items():
            factor, place = COLUMNS[name][1], labels.index(label)
            middle = [factor * value["value"] for value in values]
            below = [factor * (value["value"] - value["low"]) for value in values]
            above = [factor * (value["high"] - value["value"]) for value in values]
            style = {"marker": MARKERS[place % len(MARKERS)], "color": COLOURS[place % len(COLOURS)]}
            panel.errorbar(range(len(values)), middle, [below, above], capsize=3, label=label, **style)
        panel.set_title(COLUMNS[name][0], parse_math=False)
        panel.set_xlabel("iteration (0: base)")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
    if len(runs) > 1:
        panels[-1].legend(fontsize=7)
    return saved(figure, form)


def _lines(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], split: str | None, name: str
) -> dict[str, list[dict[str, float]]]:
    """Of the runs that measured `name` in every iteration, the values with bounds that hold them."""
    lines = {}
    for label, metrics in runs.items():
        found = [one.get(split or next(iter(one)), {}).get(name) for one in metrics]
        values = [value for value in found if value is not None and value["value"] is not None]
        if len(values) == len(found):
            lines[label] = [_drawable(value) for value in values]
    return lines


def _drawable(interval: Mapping[str, Any]) -> dict[str, float]:
    """Bounds that hold the value: of a tiny split they may be missing, or lie beside it."""
    value = interval["value"]
    ends = [value, *(interval[end] for end in ("low", "high") if interval[end] is not None)]
    return {"value": value, "low": min(ends), "high": max(ends)}


def plot_answers(pairs: Mapping[str, Sequence[Mapping[str, Any]]], form: Form = "png") -> bytes:
    """A panel for each named set of pairs: how the rewards of chosen and of rejected answers are spread.

    `pairs`: rows as in preferences.parquet, at least one, all with rewards.
    """
    import numpy as np

    figure = _figure(4.0 * max(len(pairs), 1.75), 3.6)
    panels = figure.subplots(1, len(pairs), squeeze=False, sharex=True)[0]
    sides = {"chosen": (CHOSEN, "-", None), "rejected": (REJECTED, "--", "//")}
    for panel, (title, rows) in zip(panels, pairs.items(), strict=True):
        values = {side: np.array([row[f"{side}_reward"] for row in rows]) for side in sides}
        bins = np.histogram_bin_edges(np.concatenate(list(values.values())), bins=30).tolist()
        for side, (colour, line, hatch) in sides.items():
            label = f"{side}, mean {values[side].mean():.3g}"
            panel.hist(values[side], bins=bins, alpha=0.5, color=colour, hatch=hatch, label=label)
            panel.axvline(values[side].mean(), color=colour, linestyle=line)
        panel.set_title(f"{title}: {len(rows)} pairs", parse_math=False)
        panel.set_xlabel("score of the answer")
        panel.set_ylabel("answers")
        panel.yaxis.get_major_locator().set_params(integer=True)
        panel.legend(fontsize=8)
    return saved(figure, form)


def plot_sentences(rewards: Mapping[str, np.ndarray], form: Form = "png") -> bytes:
    """How the rewards of all candidate sentences are spread; a line for each named set."""
    import numpy as np

    figure = _figure(7, 3.6)
    panel = figure.subplots()
    bins = np.histogram_bin_edges(np.concatenate(list(rewards.values())), bins=40)
    for place, (label, values) in enumerate(rewards.items()):
        shares = np.histogram(values, bins)[0] / max(len(values), 1)
        colour, line = COLOURS[place % len(COLOURS)], ("-", "--", ":", "-.")[place % 4]
        panel.stairs(100 * shares, bins, color=colour, linestyle=line, linewidth=1.6, label=label)
    panel.set_xlabel("reward of a sentence")
    panel.set_ylabel("% of the sentences")
    panel.legend(fontsize=8)
    return saved(figure, form)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def saved(figure: Figure, form: Form = "png") -> bytes:
    """The drawing as a file's content. An SVG holds its text as text, in the reader's own sans-serif font."""
    from matplotlib import rc_context

    buffer = io.BytesIO()
    with warnings.catch_warnings(), rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        # Letters the font lacks are drawn as boxes; a line a letter in the log helps nobody.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format=form, dpi=DPI, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()
