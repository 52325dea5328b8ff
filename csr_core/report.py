"""The metrics by iteration: a table for the terminal, and with their curves one HTML file that needs no network."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

from csr_core.errors import InputError
from csr_core.layout import Layout
from csr_core.records import read_json

# name in the metrics file -> (heading, factor, decimals, better when lower)
COLUMNS: dict[str, tuple[str, float, int]] = {
    "chair_i": ("CHAIR_i %", 100, 1),
    "chair_s": ("CHAIR_s %", 100, 1),
    "recall": ("recall %", 100, 1),
    "words": ("words", 1, 1),
    "repeats": ("repeats %", 100, 1),
    "held_out_relevance": ("held-out relevance", 1, 2),
    "pope_accuracy": ("POPE acc %", 100, 1),
    "pope_f1": ("POPE F1 %", 100, 1),
    "pope_yes_ratio": ("yes %", 100, 1),
    # of benchmarks
    "accuracy": ("accuracy %", 100, 1),
    "perception": ("perception of 2000", 1, 0),
    "cognition": ("cognition of 800", 1, 0),
    "relative_score": ("score relative to GPT-4 %", 100, 1),
    "score": ("score %", 100, 1),
    "unjudged": ("unjudged %", 100, 1),
    "unparsed": ("unparsed %", 100, 1),
}
# name -> the same, of what the guards look at: in `csr table`, not in the terminal's.
WATCHED: dict[str, tuple[str, float, int]] = {
    "relevance": ("relevance", 1, 2),
    "relevance_total": ("relevance of an answer", 1, 1),
    "base_nll": ("nats a token, base", 1, 3),
    "kl": ("KL to the base, nats a token", 1, 3),
}
CURVES = ("chair_i", "recall", "pope_accuracy")


def load_metrics(layout: Layout, iterations: int | None = None) -> list[dict[str, Any]]:
    """The metrics files of the base and of the iterations that are there, in order.

    Raises:
        InputError: the base has not been measured.
    """
    found: list[dict[str, Any]] = []
    while (path := layout.metrics(len(found))).is_file() and (iterations is None or len(found) <= iterations):
        metrics = read_json(path)
        # The split that is looked at for the record comes first.
        found.append({name: metrics[name] for name in sorted(metrics, key=lambda name: name != "test")})
    if not found:
        raise InputError(f"no metrics at {layout.metrics(0)}: run `csr run` first, or change into the run's folder")
    return found


def metrics_table(layout: Layout, iterations: int | None = None) -> str:
    """A plain-text table a split: a row for the base and each iteration, each figure with its 95 % interval."""
    runs = load_metrics(layout, iterations)
    parts = []
    for split in runs[0]:
        rows = [["", *(COLUMNS[name][0] for name in COLUMNS if name in runs[0][split])]]
        for k, metrics in enumerate(runs):
            there = [name for name in COLUMNS if name in runs[0][split]]
            cells = [figure(metrics[split][name], name) if name in metrics[split] else "-" for name in there]
            rows.append(["base" if k == 0 else f"iteration {k}", *cells])
        parts.append(f"{split} ({_size(runs[0][split])}; 95 % intervals over pictures)\n{_align(rows)}")
    if sentence := conclusion(runs):
        parts.append(sentence)
    return "\n\n".join(parts)


def conclusion(runs: list[dict[str, Any]]) -> str:
    """What happened, in one sentence, from the first split."""
    split = next(iter(runs[0]))
    if len(runs) < 2 or "chair_i" not in runs[0][split]:
        return ""
    first, last = runs[0][split], runs[-1][split]
    before, after = first["chair_i"], last["chair_i"]
    if not _complete(before) or not _complete(after) or last.get("recall", {}).get("value") is None:
        return ""
    apart = after["high"] < before["low"] or after["low"] > before["high"]
    moved = (
        f"fell from {_percent(before)} to" if after["value"] < before["value"] else f"rose from {_percent(before)} to"
    )
    moved = "stayed at" if after["value"] == before["value"] else moved
    text = (
        f"Hallucinated objects {moved} {_percent(after)} of those named"
        f"{'' if apart else ' (the intervals overlap)'}; "
        f"recall {figure(first['recall'], 'recall').split()[0]} % -> {figure(last['recall'], 'recall').split()[0]} %"
    )
    control = last.get("chair_i_control")
    if control and control["value"] is not None:
        text += f"; the base's answers cut to the same recall would have {100 * control['value']:.1f} %"
    return text + "."


def write_report(layout: Layout, out: Path, iterations: int | None = None) -> None:
    """Write one self-contained HTML page: curves, the table, the conclusion."""
    runs = load_metrics(layout, iterations)
    picture = base64.b64encode(plot_metrics({"run": runs})).decode()
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        "<title>CSR run</title><style>body{font:16px/1.5 system-ui;max-width:72rem;margin:2rem auto;padding:0 1rem}"
        "pre{overflow-x:auto;background:#f6f6f6;padding:1rem}img{max-width:100%}</style>"
        f"<h1>Calibrated Self-Rewarding</h1><p>{html.escape(conclusion(runs))}</p>"
        f"<img alt='metrics by iteration' src='data:image/png;base64,{picture}'>"
        f"<pre>{html.escape(metrics_table(layout, iterations))}</pre></html>"
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, "utf-8")


def plot_metrics(runs: dict[str, list[dict[str, Any]]], split: str | None = None) -> bytes:
    """PNG with a panel for each of CURVES; a line with its 95 % interval for each named run."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(CURVES), figsize=(12, 3.6), constrained_layout=True)
    for panel, name in zip(panels, CURVES, strict=True):
        for label, metrics in runs.items():
            found = [m[split or next(iter(m))].get(name) for m in metrics]
            if any(value is None or value["value"] is None for value in found):
                continue
            values = [_drawable(value) for value in found]
            steps, factor = range(len(values)), COLUMNS[name][1]
            middle = [factor * value["value"] for value in values]
            below = [factor * (value["value"] - value["low"]) for value in values]
            above = [factor * (value["high"] - value["value"]) for value in values]
            panel.errorbar(steps, middle, [below, above], marker="o", capsize=3, label=label)
        panel.set_title(COLUMNS[name][0])
        panel.set_xlabel("iteration (0: base)")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
    if len(runs) > 1:
        panels[-1].legend(fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def _drawable(interval: dict[str, Any]) -> dict[str, float]:
    """Bounds that hold the value: of a tiny split they may be missing, or lie beside it."""
    value = interval["value"]
    ends = [value, *(interval[end] for end in ("low", "high") if interval[end] is not None)]
    return {"value": value, "low": min(ends), "high": max(ends)}


def _complete(interval: dict[str, Any]) -> bool:
    return all(interval[key] is not None for key in ("value", "low", "high"))


def figure(interval: dict[str, Any], name: str) -> str:
    """A figure of COLUMNS with its interval, as in `22.8 [21.5, 24.2]`."""
    _, factor, decimals = COLUMNS[name]
    if not _complete(interval):
        return "-" if interval["value"] is None else f"{factor * interval['value']:.{decimals}f}"
    value, low, high = (f"{factor * interval[key]:.{decimals}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _percent(interval: dict[str, Any]) -> str:
    value, low, high = (f"{100 * interval[key]:.1f}" for key in ("value", "low", "high"))
    return f"{value} % [{low}, {high}]"


def _size(metrics: dict[str, Any]) -> str:
    """How much was measured: pictures of a split; of a benchmark, what its metric counts."""
    if "unparsed" in metrics:
        return f"{metrics['unparsed']['n']:.0f} items"
    return f"{next(iter(metrics.values()))['n']:.0f} pictures"


def _align(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
