"""The peak of each stage on a few prompts, measured: each stage in a process of its own, as in a run.

`python -m csr_core.memory.trial STAGE ITERATION` reads settings (JSON) from its input, runs the stage in the current
folder, and prints its peak: of a GPU what torch had allocated, on a CPU the largest resident size of the process.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from csr_core.config import Settings
from csr_core.errors import InputError
from csr_core.layout import Layout
from csr_core.memory.stages import Load, Need, Planned, needs
from csr_core.records import CANDIDATES, read_table

PROMPTS = 6  # of the trial
ORDER = (("prepare", 0), ("prepare", 1), ("generate", 1), ("score", 1), ("pair", 1), ("finetune", 1), ("evaluate", 0))


@dataclass(frozen=True)
class Measured:
    """A stage's peak in bytes, and what the estimate for the very same lengths and batches is."""

    stage: str
    peak: int
    estimate: Need


def trial_settings(settings: Settings) -> Settings:
    """The settings with so few prompts, pictures and passes that the trial takes seconds; lengths as they are."""
    splits = {name: split.model_copy(update={"count": PROMPTS}) for name, split in settings.evaluate.splits.items()}
    changes = {
        "data": {"per_iteration": PROMPTS},
        "generate": {"batch_size": PROMPTS, "shard_size": PROMPTS},
        "pair": {"drop_closest": 0.0, "same_length_share": 0.0},
        "finetune": {"epochs": 1.0, "accumulation": 1},
        "evaluate": {"splits": splits, "bootstrap": 100, "batch_size": PROMPTS},
    }
    parts = {name: getattr(settings, name).model_copy(update=update) for name, update in changes.items()}
    return settings.model_copy(update={**parts, "iterations": 1})


def measure(plan: Planned) -> Iterator[Measured]:
    """Run every stage on PROMPTS prompts and give each model stage's peak.

    Raises:
        InputError: a stage failed; the message is its own.
    """
    settings = trial_settings(plan.settings)
    with tempfile.TemporaryDirectory() as folder:
        absolute = _with_whole_paths(settings)
        peaks = {}
        for stage, iteration in ORDER:
            peaks[stage] = _run(stage, iteration, absolute, Path(folder))
        load = _load(Path(folder), plan.load)
    for need in needs(replace(plan, settings=settings, load=load)):
        # Of a GPU only what torch allocated is measured.
        parts = {name: size for name, size in need.parts.items() if name != "program" or plan.device != "cuda"}
        if parts:
            yield Measured(need.stage, peaks[need.stage], Need(need.stage, parts))


def _with_whole_paths(settings: Settings) -> Settings:
    """The trial runs in a folder of its own."""

    def whole(path: str | None) -> str | None:
        return str(Path(path).resolve()) if path and Path(path).exists() else path

    splits = {
        name: split.model_copy(update={"folder": whole(split.folder)})
        for name, split in settings.evaluate.splits.items()
    }
    changes = {
        "model": {name: whole(getattr(settings.model, name)) for name in ("path", "adapter", "prompt_template")},
        "data": {name: whole(getattr(settings.data, name)) for name in ("prompts", "images")},
        "reward": {"model": [str(whole(name)) for name in settings.reward.models]},
        "evaluate": {"splits": splits},
    }
    parts = {name: getattr(settings, name).model_copy(update=update) for name, update in changes.items()}
    return settings.model_copy(update=parts)


def _run(stage: str, iteration: int, settings: Settings, folder: Path) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "csr_core.memory.trial", stage, str(iteration)],
        input=settings.model_dump_json(),
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it was killed"])[-1]
        raise InputError(f"{stage} on {PROMPTS} prompts: {last}")
    return int(json.loads(done.stdout.splitlines()[-1])["peak"])


def _load(folder: Path, usual: Load) -> Load:
    """Lengths as the trial's own trees have them."""
    rows = [row for row in read_table(Layout(folder).candidates(1), CANDIDATES) if row["node"] != 0]
    lengths = [len(row["token_ids"]) for row in rows]
    deepest = max(row["depth"] for row in rows)
    mean = max(1, round(sum(lengths) / len(lengths)))
    return Load(usual.prompt, mean, mean * deepest, PROMPTS)


def _main(stage: str, iteration: str) -> int:
    import torch

    from csr_core.errors import CsrError
    from csr_core.stages.gpus import gpu_slot
    from csr_core.stages.memory import memory_errors
    from csr_core.stages.plan import plan
    from csr_core.stages.runner import run_stage

    settings = Settings.model_validate_json(sys.stdin.read())
    call, layout = plan(stage, int(iteration), settings, Layout(Path())), Layout(Path())
    try:
        with gpu_slot(settings.model.device), memory_errors(stage):
            run_stage(call, layout)
    except CsrError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 2
    on_gpu = torch.cuda.is_available() and torch.cuda.max_memory_allocated() > 0
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": torch.cuda.max_memory_allocated() if on_gpu else resident}))
    return 0


if __name__ == "__main__":
    raise SystemExit(_main(*sys.argv[1:]))
