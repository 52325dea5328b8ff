"""The metrics by iteration: their names and formats, a table for the terminal, what happened in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from csr_core.errors import InputError
from csr_core.layout import Layout
from csr_core.records import read_json
from csr_core.stages.guard import last_good, stopped

# name in the metrics file -> (heading, factor, decimals)
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
# name -> heading, of figures that explain others.
EXPLAIN: dict[str, str] = {
    "chair_i_control": "CHAIR_i of the base's answers cut to this recall %",
    "prior_present": "companions named where they are there %",
    "prior_absent": "companions named where they are not %",
    "pope_precision": "POPE precision of yes %",
    "pope_recall": "POPE recall of yes %",
    "pope_unclear": "POPE answers that are neither yes nor no %",
    "pope_accuracy_random": "POPE acc %, random absent objects",
    "pope_accuracy_popular": "POPE acc %, frequent absent objects",
    "pope_accuracy_adversarial": "POPE acc %, usual companions that are absent",
}
ALPHA = 0.05  # a difference with a smaller p is called one


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
        raise InputError(f"no metrics at {layout.metrics(0)}: run `csr run` first, or name the folder of the run")
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
    told = f"{conclusion(runs)} {stop(layout, len(runs) - 1)}".strip()
    return "\n\n".join([*parts, told]).rstrip()


def stop(layout: Layout, last: int) -> str:
    """That a guard stopped iteration `last`, and which model is the last good one; empty where none did."""
    if not stopped(last, layout):
        return ""
    good = last_good(last, layout)
    model = f"the last good model is that of iteration {good}" if good else "no iteration is good, the base is"
    seen = read_json(layout.guards(last)) if layout.guards(last).is_file() else []
    fired = [one["guard"] for one in seen if one["fired"]]
    return f"But a guard stopped iteration {last} ({', '.join(fired)}): {model}."


def conclusion(runs: Sequence[Mapping[str, Any]], split: str | None = None) -> str:
    """What happened from the first model to the last, in one sentence, on `split` (None: the first).

    Empty where CHAIR_i or recall were not measured, or without an interval.
    """
    split = split or next(iter(runs[0]))
    if len(runs) < 2 or any("chair_i" not in metrics.get(split, {}) for metrics in (runs[0], runs[-1])):
        return ""
    first, last = runs[0][split], runs[-1][split]
    before, after = first["chair_i"], last["chair_i"]
    if not _complete(before) or not _complete(after) or last.get("recall", {}).get("value") is None:
        return ""
    text = f"Hallucinated objects {_moved(before, after)} of those named{_certainty(before, after)}"
    for name, words in (("recall", "recall"), ("pope_accuracy", "POPE accuracy")):
        if all(figures.get(name, {}).get("value") is not None for figures in (first, last)):
            text += f"; {words} {100 * first[name]['value']:.1f} % -> {100 * last[name]['value']:.1f} %"
    control = last.get("chair_i_control")
    if control and control["value"] is not None:
        text += f"; the base's answers cut to the same recall would have {100 * control['value']:.1f} %"
    return text + "."


def _moved(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    if after["value"] == before["value"]:
        return f"stayed at {percent(after)}"
    if not _clear(before, after):
        return f"went from {percent(before)} to {percent(after)}"
    return f"{'fell' if after['value'] < before['value'] else 'rose'} from {percent(before)} to {percent(after)}"


def _clear(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the paired test tells them apart; in older files, which have none, whether the intervals are apart."""
    p = _p(after)
    return p < ALPHA if p is not None else after["high"] < before["low"] or after["low"] > before["high"]


def _certainty(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    p, clear = _p(after), _clear(before, after)
    if p is None:
        return "" if clear else " (the intervals overlap)"
    return f" ({p_words(p)})" if clear else f" (no clear difference: {p_words(p)})"


def _p(after: Mapping[str, Any]) -> float | None:
    versus = after.get("vs_base") or {}
    found: float | None = versus.get("p_holm", versus.get("p"))
    return found


def p_cell(p: float | None) -> str:
    """`0.012`, `< 0.001`, or `-` where there is none."""
    return "-" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def p_words(p: float) -> str:
    """`p = 0.012`, or `p < 0.001`."""
    return f"p {'' if p < 0.001 else '= '}{p_cell(p)}"


def _complete(interval: dict[str, Any]) -> bool:
    return all(interval[key] is not None for key in ("value", "low", "high"))


def figure(interval: dict[str, Any], name: str) -> str:
    """A figure of COLUMNS with its interval, as in `22.8 [21.5, 24.2]`."""
    _, factor, decimals = COLUMNS[name]
    if not _complete(interval):
        return "-" if interval["value"] is None else f"{factor * interval['value']:.{decimals}f}"
    value, low, high = (f"{factor * interval[key]:.{decimals}f}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def percent(interval: Mapping[str, Any]) -> str:
    """`22.8 % [21.5, 24.2]` of a share with its interval."""
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


def scale(name: str, values: Sequence[float | None]) -> tuple[float, int]:
    """(factor, decimals) to print a figure with: shares in percent, others as they are."""
    if known := {**COLUMNS, **WATCHED}.get(name):
        return known[1:]
    return (100, 1) if all(value is None or -1 <= value <= 1 for value in values) else (1, 2)


def heading(name: str, factor: float) -> str:
    known = {**COLUMNS, **WATCHED}.get(name)
    return known[0] if known else EXPLAIN.get(name) or (f"{name} %" if factor == 100 else name)


def cell(entry: Mapping[str, Any] | None, factor: float, decimals: int, key: str = "value", sign: str = "") -> str:
    """`22.8 [21.5, 24.2]`; `-` where there is no value."""
    if entry is None or entry.get(key) is None:
        return "-"
    numbers = (round(factor * entry[part], decimals) + 0.0 for part in (key, "low", "high"))  # no -0.0
    value, low, high = (f"{number:{sign}.{decimals}f}" for number in numbers)
    return f"{value} [{low}, {high}]"
