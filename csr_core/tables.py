"""The tables that a paper would print, from the metrics files and the counts of a run: Markdown, LaTeX, JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csr_core.errors import InputError, SettingsError
from csr_core.evaluation.contrasts import gain_figures, gap_changes, gaps, relative_gain
from csr_core.evaluation.counts import Items, read_counts
from csr_core.evaluation.hypotheses import is_descriptive
from csr_core.layout import Layout
from csr_core.report.figures import COLUMNS, cell, heading, load_metrics, p_cell, scale

FORMATS = ("markdown", "latex", "json")
ESCAPES = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{sign: "\\" + sign for sign in "&%$#_{}"},
}  # fmt: skip

Section = tuple[str, list[str], list[list[str]]]  # caption, headings, rows


def results(
    layout: Layout,
    twins: Mapping[str, str] | None = None,
    figures: Sequence[str] | None = None,
    iterations: int | None = None,
    resamples: int = 2000,
) -> dict[str, Any]:
    """Everything the tables show, in the units of the metrics files (shares of 1): {rows, gain, gaps, notes}.

    `rows`: an entry a split, figure and model (base and each iteration). `gain`: the relative gain of each iteration
    over `figures` (SPLIT/FIGURE; by default all from which something is claimed, shifted twins left out). `gaps`: for
    each pair of `twins` (split -> its shifted twin), figure and model, the gap and how it differs from the base's.
    `notes` says in words what could not be computed, and why.

    Raises:
        InputError: the base has not been measured, or a figure of `figures` is none.
    """
    runs = load_metrics(layout, iterations)
    found: dict[str, Any] = {"rows": _rows(runs), "gain": [], "gaps": [], "notes": []}
    if not any("p" in row for row in found["rows"]) and len(runs) > 1:
        found["notes"].append("The metrics are of an older version, without p: measure again for them.")
    try:
        counted = [read_counts(layout.answers(k)) for k in range(len(runs))]
    except InputError as error:
        found["notes"].append(f"No relative gain and no gaps: {error}.")
        return found
    twins = twins or {}
    chosen = [_figure(text, runs[0]) for text in figures or ()] or _measured_in_all(counted, list(twins.values()))
    if not chosen:
        found["notes"].append("No relative gain: there is no share from which something is claimed in all models.")
    for k in range(1, len(counted) if chosen else 0):
        try:
            gain = relative_gain(counted[k], counted[0], chosen, resamples)
        except InputError as error:
            found["notes"].append(f"No relative gain of iteration {k}: {error}.")
            continue
        found["gain"].append({"iteration": k, **gain.as_dict(), "figures": [f"{s}/{name}" for s, name in chosen]})
    for usual, shifted in twins.items():
        if missing := [name for name in (usual, shifted) if name not in counted[0]]:
            found["notes"].append(f"No gap from {usual} to {shifted}: {', '.join(missing)} was not measured.")
        else:
            found["gaps"] += _gaps(counted, usual, shifted, resamples)
    return found


def render(found: Mapping[str, Any], form: str) -> str:
    """The results as text of one of FORMATS.

    Raises:
        SettingsError: no such format.
    """
    if form not in FORMATS:
        raise SettingsError(f"--format {form}: expected one of {', '.join(FORMATS)}")
    if form == "json":
        return json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    parts = [(_latex if form == "latex" else _markdown)(section) for section in _sections(found)]
    if form == "latex":
        return "% needs \\usepackage{booktabs,longtable}\n" + "\n".join([*parts, *(f"% {n}\n" for n in found["notes"])])
    return "\n".join([*parts, *(f"{note}\n" for note in found["notes"])])


def seeds_markdown(report: Sequence[Mapping[str, Any]]) -> str:
    """What `seeds_report` found as a Markdown table: a row a split, figure and model."""
    rows = []
    for split, figures in report[0]["values"].items():
        for name in figures:
            entries = [entry for entry in report if name in entry["values"].get(split, {})]
            factor, decimals = scale(name, [entry["values"][split][name]["mean"] for entry in entries])
            for entry in entries:
                one, change = entry["values"][split][name], entry.get("differences", {}).get(split, {}).get(name)
                cells = [cell(one, factor, decimals, "mean"), f"{factor * one['spread']:.{decimals}f}"]
                cells.append(cell(change, factor, decimals, "mean", "+"))
                rows.append([split, heading(name, factor), _model(entry), str(one["seeds"]), *cells])
    caption = (
        "Mean over the seeds with a 95 % interval over seeds and images; spread: standard deviation between seeds."
    )
    heads = ["split", "figure", "model", "seeds", "mean [95 %]", "spread", "difference to the base [95 %]"]
    return _markdown((caption, heads, rows))


def _rows(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for split in dict.fromkeys(split for metrics in runs for split in metrics):
        names = dict.fromkeys(name for metrics in runs for name in metrics.get(split, {}))
        for name in sorted(names, key=_place):
            for k, metrics in enumerate(runs):
                if entry := metrics.get(split, {}).get(name):
                    own = {key: entry[key] for key in ("value", "low", "high", "n")}
                    row = {"split": split, "figure": name, "iteration": k, **own}
                    if versus := entry.get("vs_base"):
                        bounds = {key: versus[key] for key in ("difference", "low", "high")}
                        row |= {"versus_base": bounds, "descriptive": is_descriptive(name)}
                        row |= {key: versus[key] for key in ("p", "p_holm", "detectable") if key in versus}
                    rows.append(row)
    return rows


def _place(name: str) -> int:
    return list(COLUMNS).index(name) if name in COLUMNS else len(COLUMNS)


def _figure(text: str, metrics: Mapping[str, Any]) -> tuple[str, str]:
    split, _, name = text.partition("/")
    if name not in metrics.get(split, {}):
        there = ", ".join(f"{split}/{name}" for split in metrics for name in metrics[split])
        raise InputError(f"--gain {text}: expected SPLIT/FIGURE, one of {there}")
    return split, name


def _measured_in_all(counted: Sequence[Items], leave_out: Sequence[str]) -> list[tuple[str, str]]:
    of_all = [gain_figures(items, leave_out) for items in counted]
    return [figure for figure in of_all[0] if all(figure in figures for figures in of_all)]


def _gaps(counted: Sequence[Items], usual: str, shifted: str, resamples: int) -> list[dict[str, Any]]:
    found = []
    for k, items in enumerate(counted):
        changes = (
            gap_changes((items[usual], counted[0][usual]), (items[shifted], counted[0][shifted]), resamples)
            if k and usual in items and shifted in items
            else {}
        )
        for name, gap in gaps(items.get(usual, []), items.get(shifted, []), resamples).items():
            entry = {"split": usual, "twin": shifted, "figure": name, "iteration": k, "gap": gap.as_dict()}
            found.append(entry | ({"change": changes[name].as_dict()} if name in changes else {}))
    return sorted(found, key=lambda entry: (_place(entry["figure"]), entry["figure"], entry["iteration"]))


def _sections(found: Mapping[str, Any]) -> list[Section]:
    sections = [_main(found["rows"])]
    if found["gain"]:
        names = ", ".join(found["gain"][0]["figures"])
        rows = [[_model(entry), cell(entry, 100, 2, sign="+")] for entry in found["gain"]]
        sections.append(
            (f"Relative gain over {names}: mean score by the base's - 1.", ["model", "gain % [95 %]"], rows)
        )
    if found["gaps"]:
        sections.append(_gap_section(found["gaps"]))
    return sections


def _main(entries: Sequence[Mapping[str, Any]]) -> Section:
    rows = []
    for entry in entries:
        name = entry["figure"]
        same = [other for other in entries if other["figure"] == name]
        factor, decimals = scale(name, [other["value"] for other in same])
        least = entry.get("detectable")
        rows.append(
            [
                entry["split"], heading(name, factor), _model(entry), str(entry["n"]), cell(entry, factor, decimals),
                cell(entry.get("versus_base"), factor, decimals, "difference", "+"), p_cell(entry.get("p_holm")),
                "-" if least is None else f"{factor * least:.{decimals}f}",
            ]
        )  # fmt: skip
    caption = (
        "Figures with 95 % intervals over images; differences to the base, paired. p: permutation test, with Holm's "
        "correction over all figures from which something is claimed. Detectable: the smallest true difference "
        "that this sample would have shown with a power of 80 %."
    )
    heads = ["split", "figure", "model", "n", "value [95 %]", "difference [95 %]", "p (Holm)", "detectable"]
    return caption, heads, rows


def _gap_section(entries: Sequence[Mapping[str, Any]]) -> Section:
    rows = []
    for entry in entries:
        factor, decimals = scale(
            entry["figure"], [other["gap"]["value"] for other in entries if other["figure"] == entry["figure"]]
        )
        gap, change = (cell(entry.get(part), factor, decimals, sign="+") for part in ("gap", "change"))
        rows.append(
            [f"{entry['split']} to {entry['twin']}", heading(entry["figure"], factor), _model(entry), gap, change]
        )
    caption = "Out of distribution: the figure on the shifted twin minus that on the usual split, and its change."
    return caption, ["splits", "figure", "model", "gap [95 %]", "change against the base [95 %]"], rows


def _model(entry: Mapping[str, Any]) -> str:
    return f"iteration {entry['iteration']}" if entry["iteration"] else "base"


def _markdown(section: Section) -> str:
    caption, heads, rows = section
    lines = [caption, "", *("| " + " | ".join(row) + " |" for row in (heads, ["---"] * len(heads), *rows))]
    return "\n".join(lines) + "\n"


def _latex(section: Section) -> str:
    caption, heads, rows = section
    start = [rf"\begin{{longtable}}{{{'l' * len(heads)}}}", rf"\caption{{{escape(caption)}}}\\", r"\toprule"]
    body = [" & ".join(map(escape, row)) + r" \\" for row in (heads, *rows)]
    end = [r"\bottomrule", r"\end{longtable}"]
    return "\n".join([*start, body[0], r"\midrule", r"\endhead", *body[1:], *end]) + "\n"


def escape(text: str) -> str:
    """`text` for LaTeX: what has a meaning there stands for itself; a bracket is never read as a command's option."""
    text = re.sub(r"[\\~^&%$#_{}]", lambda match: ESCAPES[match[0]], text)
    text = "--" if text == "-" else re.sub(r"(?<![\w.-])-(?=\d)", "$-$", text)
    return text.replace("<", "$<$").replace(">", "$>$").replace("[", "{[}").replace("]", "{]}")


def write(text: str, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, "utf-8")
