"""A bridge to `lmms-eval`, for any other task: it runs in an environment of its own, and its results come back as JSON.

What it is given is a folder with the whole model; what it gives back is a file `*_results.json` below the output
folder, {"results": {task: {"metric,filter": value, "metric_stderr,filter": value}}, "n-samples": ..., ...}.
Source: github.com/EvolvingLMMs-Lab/lmms-eval, docs/commands.md and loggers/evaluation_tracker.py.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from csr_core.config import Settings
from csr_core.errors import InputError
from csr_core.layout import Layout
from csr_core.records import write_json

# Of the environment that this program runs in, which the other one must not see.
_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")

Tasks = dict[str, dict[str, dict[str, float]]]


def run_lmms_eval(
    settings: Settings,
    layout: Layout,
    iteration: int,
    tasks: Sequence[str],
    python: Path,
    model: str = "llava_hf",
    more: Sequence[str] = (),
) -> Path:
    """Run `tasks` on the model of `iteration` (0: the base); returns `evaluations/lmms-eval/iter_K/results.json`.

    Args:
        python: the interpreter of the environment that lmms-eval is installed in.
        model: lmms-eval's name of the model's family.
        more: further arguments of lmms-eval, such as --limit 8.

    Raises:
        InputError: there is no such model or interpreter, or lmms-eval ended with an error or without results.
    """
    if not shutil.which(python):
        raise InputError(f"expected the python of lmms-eval's own environment at {python}, found none: see --python")
    out = layout.root / "evaluations" / "lmms-eval" / f"iter_{iteration}"
    raw = out / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True)
    with_model = _model_folder(settings, layout, iteration, out / "model")
    command = [str(python), "-m", "lmms_eval", "--model", model, "--model_args", f"pretrained={with_model}"]
    command += ["--tasks", ",".join(tasks), "--batch_size", "1", "--output_path", str(raw.resolve()), *more]
    environment = {name: value for name, value in os.environ.items() if name not in _OURS}
    try:
        status = subprocess.run(command, env=environment, check=False).returncode
    finally:
        shutil.rmtree(out / "model", ignore_errors=True)
    if status:
        raise InputError(f"lmms-eval ended with status {status}: its own words are above")
    found = read_results(raw)
    results = out / "results.json"
    write_json(results, {"tasks": found, "model": model, "iteration": iteration, "asked": list(tasks)})
    return results


def read_results(folder: Path) -> Tasks:
    """{task: {metric: {value, stderr}}} of the newest results file below `folder`; stderr where there is a number.

    A metric keeps its filter where that is not `none`. Values that are no numbers, such as an alias, are left out.

    Raises:
        InputError: there is no results file.
    """
    files = sorted([*folder.rglob("*_results.json"), *folder.rglob("results.json")], key=lambda f: f.stat().st_mtime_ns)
    if not files:
        raise InputError(f"lmms-eval left no *_results.json below {folder}: did it run on the tasks?")
    found: Tasks = {}
    for task, entries in json.loads(files[-1].read_text("utf-8")).get("results", {}).items():
        metrics: dict[str, dict[str, float]] = {}
        for name, value in entries.items():
            metric, _, filtered = name.partition(",")
            if not _is_number(value) or metric.endswith("_stderr"):
                continue
            label = metric if filtered in ("", "none") else name
            metrics[label] = {"value": float(value)}
            error = entries.get(f"{metric}_stderr,{filtered}" if filtered else f"{metric}_stderr")
            if _is_number(error):
                metrics[label]["stderr"] = float(error)
        found[task] = metrics
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _model_folder(settings: Settings, layout: Layout, iteration: int, out: Path) -> str:
    """Where the whole model lies: the base's own folder or name, else written to `out`."""
    from csr_core.export import export_model
    from csr_core.policy.loading import model_path

    if iteration == 0 and not settings.model.adapter:
        path = str(model_path(settings.model))
        return str(Path(path).resolve()) if Path(path).is_dir() else path
    if iteration == 0:
        raise InputError("the base has an adapter (model.adapter): merge it first, and name the whole model's folder")
    shutil.rmtree(out, ignore_errors=True)
    return str(export_model(settings, layout, iteration, out, merged=True).folder.resolve())
