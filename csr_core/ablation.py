"""What each part of the reward does: whole runs of several configurations and seeds, then a table and a plot.

The claim behind calibration is that the picture's relevance and the model's own likelihood together beat either alone.
`csr ablate` runs it to the end for each preset; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from csr_core.errors import InputError, SettingsError
from csr_core.evaluation.seeds import seeds_report
from csr_core.layout import Layout
from csr_core.params import load_settings
from csr_core.progress import Progress
from csr_core.records import write_json
from csr_core.report import load_metrics, plot_metrics
from csr_core.reward.verdict import refuse_unfit
from csr_core.tables import seeds_markdown

_PARTS = {
    "image alone": ["reward.image_weight=1.0"],
    "likelihood alone": ["reward.image_weight=0.0"],
    "both, raw": ["reward.image_weight=0.9"],
    "both, standardised": ["reward.image_weight=0.9", "reward.likelihood_scale=standardised"],
}
CONFIGURATIONS: dict[str, list[str]] = {
    **{
        f"{preset}: {part}": [f"preset={preset}", *sets]
        for preset in ("paper", "steady")
        for part, sets in _PARTS.items()
    },
    # Under this search the miniature writes sentences of a few characters: without a limit some trees have 150 of them.
    "authors-code": ["preset=authors-code", "generate.max_sentences=12"],
}
# heading -> (metric, factor)
_COLUMNS = {
    "CHAIR_i %": ("chair_i", 100),
    "recall %": ("recall", 100),
    "control at that recall %": ("chair_i_control", 100),
    "words": ("words", 1),
    "repeats %": ("repeats", 100),
    "POPE acc %": ("pope_accuracy", 100),
    "companion named when absent %": ("prior_absent", 100),
    "... when present %": ("prior_present", 100),
}


def ablate(
    params: Path, overrides: Sequence[str], seeds: int, jobs: int, only: Sequence[str] | None, out: Path
) -> None:
    """Run the configurations (all, or those named in `only`) with seeds 0 .. seeds - 1, `jobs` runs at a time.

    `overrides` hold for every configuration. Runs lie in `out/NAME/seed_S`; beside them table, plot, results.json.

    Raises:
        SettingsError: no such configuration, or settings that cannot be used.
    """
    names = list(only or CONFIGURATIONS)
    if unknown := [name for name in names if name not in CONFIGURATIONS]:
        raise SettingsError(
            f"--only: there is no configuration {', '.join(unknown)}; expected some of {', '.join(CONFIGURATIONS)}"
        )
    todo = [(name, seed) for seed in range(seeds) for name in names]
    for name, seed in todo:
        refuse_unfit(load_settings(params, _overrides(name, seed, overrides)))
    failed = []
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ThreadPoolExecutor(jobs) as pool, Progress("ablate", len(todo), "runs") as bar:
        codes = pool.map(lambda item: _run(params, item[0], item[1], overrides, out, threads), todo)
        for (name, seed), code in zip(todo, codes, strict=True):
            failed += [(name, seed)] if code else []
            bar.advance(note=f"{name}, seed {seed}: {'failed' if code else 'done'}")
    for name, seed in failed:
        print(f"failed: {name}, seed {seed}; see {folder(out, name, seed) / 'log.txt'}", file=sys.stderr)
    results = collect(out, names, seeds)
    write_json(out / "results.json", results)
    table = ablation_table(results)
    (out / "table.md").write_text(table, "utf-8")
    (out / "runs.md").write_text(runs_table(results), "utf-8")
    (out / "seeds.md").write_text(over_seeds_table(out, list(results), seeds), "utf-8")
    (out / "plot.png").write_bytes(plot_metrics({name: mean_metrics(runs) for name, runs in results.items()}, "test"))
    print(table)


def folder(out: Path, name: str, seed: int) -> Path:
    return out / name.replace(": ", "-").replace(", ", "-").replace(" ", "-") / f"seed_{seed}"


def collect(out: Path, names: Iterable[str], seeds: int) -> dict[str, list[list[dict[str, Any]]]]:
    """`{configuration: [seed: [iteration: metrics]]}` of the runs that are there."""
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for name in names:
        layouts = [Layout(folder(out, name, seed)) for seed in range(seeds)]
        found[name] = [load_metrics(layout) for layout in layouts if layout.metrics(0).is_file()]
    return {name: runs for name, runs in found.items() if runs}


def ablation_table(results: dict[str, list[list[dict[str, Any]]]], split: str = "test") -> str:
    """Markdown: a row a configuration and iteration; mean over the seeds, least and greatest in brackets."""
    heads = ["configuration", "iteration", *_COLUMNS]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for number, (name, runs) in enumerate(results.items()):
        for k in range(1 if number else 0, min(len(run) for run in runs)):
            cells = [_cell([run[k][split].get(metric) for run in runs], factor) for metric, factor in _COLUMNS.values()]
            lines.append(f"| {name if k else 'base'} | {k} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def runs_table(results: dict[str, list[list[dict[str, Any]]]], split: str = "test") -> str:
    """Markdown: a row a whole run; the base and the last iteration with 95 % intervals, and paired differences."""
    heads = ["configuration", "run", "CHAIR_i % base", "last", "control at that recall", "recall % base", "last"]
    heads += ["recall, difference", "POPE acc % base", "last", "POPE acc, difference"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for name, runs in results.items():
        for number, run in enumerate(runs):
            base, last = run[0][split], run[-1][split]
            cells = [name, str(number), *(_interval(metrics["chair_i"]) for metrics in (base, last))]
            cells.append(_interval(last["chair_i_control"]))
            for metric in ("recall", "pope_accuracy"):
                change = last[metric].get("vs_base", {})
                cells += [_interval(base[metric]), _interval(last[metric]), _interval(change, "difference", "+.1f")]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def over_seeds_table(out: Path, names: Iterable[str], seeds: int) -> str:
    """Markdown: the table of `csr seeds` for each configuration: mean, spread, interval over seeds and images."""
    parts = []
    for name in names:
        folders = [folder(out, name, seed) for seed in range(seeds)]
        try:
            report = seeds_report([place for place in folders if Layout(place).metrics(0).is_file()])
        except InputError as error:  # runs of an older version have no counts; the other tables stand without
            parts.append(f"{name}: {error}\n")
            continue
        parts.append(f"## {name}\n\n{seeds_markdown(report)}")
    return "\n".join(parts)


def _interval(entry: dict[str, Any], key: str = "value", form: str = ".1f") -> str:
    if key not in entry:
        return "-"
    value, low, high = (format(100 * entry[part], form) for part in (key, "low", "high"))
    return f"{value} [{low}, {high}]"


def mean_metrics(runs: list[list[dict[str, Any]]], split: str = "test") -> list[dict[str, Any]]:
    """Mean over seeds of each metric, with the least and the greatest as its bounds."""
    out: list[dict[str, Any]] = []
    for k in range(min(len(run) for run in runs)):
        values = {}
        for name in runs[0][k][split]:
            found = [run[k][split][name]["value"] for run in runs]
            if None not in found:
                low, high = min(found), max(found)
                values[name] = {"value": statistics.fmean(found), "low": low, "high": high, "n": len(found)}
        out.append({split: values})
    return out


def _cell(intervals: list[dict[str, Any] | None], factor: float) -> str:
    values = [factor * entry["value"] for entry in intervals if entry is not None and entry["value"] is not None]
    if not values:
        return "-"
    mean = statistics.fmean(values)
    return f"{mean:.1f}" + (f" [{min(values):.1f}, {max(values):.1f}]" if len(values) > 1 else "")


def _overrides(name: str, seed: int, overrides: Sequence[str]) -> list[str]:
    # Runs side by side share the cores; workers have no influence on results.
    return [*CONFIGURATIONS[name], f"seed={seed}", "run.workers=1", *overrides]


def _run(params: Path, name: str, seed: int, overrides: Sequence[str], out: Path, threads: int) -> int:
    """One whole run in a process of its own, its output in log.txt."""
    place = folder(out, name, seed)
    place.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "csr_core.ablation", str(place), str(params), *_overrides(name, seed, overrides)]
    with (place / "log.txt").open("a") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment).returncode


def _main() -> None:
    from csr_core.loop import iterate
    from csr_core.run_settings import keep_settings
    from csr_core.stages.__main__ import describe

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("params", type=Path)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_args()
    settings = load_settings(args.params, args.overrides)
    keep_settings(settings, args.folder, Path())
    iterate(settings, Layout(args.folder), lambda result: print(describe(result), flush=True))


if __name__ == "__main__":
    _main()
