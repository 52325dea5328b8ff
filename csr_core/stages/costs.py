"""What each stage cost: time, items, memory. `metrics/costs/NAME@K.json`, which no digest and no DVC output holds.

Apart from the outputs, which are the same for the same content; and not below `.csr`, which may be deleted.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from csr_core.layout import Layout
from csr_core.progress_line import clock
from csr_core.records import read_json, write_json
from csr_core.stages import STAGES

COLUMNS = ("iteration", "stage", "seconds", "items", "unit", "peak_mib", "gpu_mib", "workers", "resumed", "cached")


def stage_costs(layout: Layout) -> list[dict[str, Any]]:
    """The costs of every stage that is done, in the order of a run.

    Each has COLUMNS: iteration; stage; seconds of wall clock of the run that made it; items, what was worked on, and
    its unit (None, "" for the guards); peak_mib, the memory of its largest process, and gpu_mib, what torch had
    allocated at most on a GPU (None where it is not known, or there was none); workers, processes side by side;
    resumed: an earlier run that was interrupted did a part, whose seconds are not among these; cached: the last run
    found it up to date. `dvc repro` skips such a stage without asking it, and then nothing is noted.
    """
    stamps = {file.stem: file for file in (layout.state / "stamps").glob("*@*.json")}
    labels = stamps.keys() | {file.stem for file in layout.costs.glob("*@*.json")}
    found = []
    for label in labels:
        name, _, iteration = label.partition("@")
        if name in STAGES and iteration.isdecimal():
            made = _read(_file(layout, label))
            if made is None and label in stamps:  # of a run that noted no more than this
                stamp = _read(stamps[label]) or {}
                made = _row(label, stamp.get("seconds"), stamp.get("summary", {}))
            found += [{**dict.fromkeys(COLUMNS), **made}] if made else []
    return sorted(found, key=lambda row: (row["iteration"], STAGES.index(row["stage"])))


def times_text(costs: list[dict[str, Any]]) -> str:
    """What the stages of the last run took, over all iterations, e.g. took 1:09: generate 0:31, finetune 0:38."""
    made = [row for row in costs if not row["cached"] and row["seconds"] is not None]
    idle = len(costs) - len(made)
    if not made:
        return f"all {idle} stages were up to date"
    each = {name: sum(row["seconds"] for row in made if row["stage"] == name) for name in STAGES}
    told = ", ".join(f"{name} {clock(seconds)}" for name, seconds in each.items() if seconds)
    return f"took {clock(sum(each.values()))}: {told}" + (f"; {idle} of {len(costs)} stages up to date" if idle else "")


@dataclass(frozen=True)
class Use:
    """The memory at most of one process, or of the largest of several."""

    peak_mib: float = 0.0
    gpu_mib: float | None = None

    def __or__(self, other: Use) -> Use:
        on_gpus = [one.gpu_mib for one in (self, other) if one.gpu_mib is not None]
        return Use(max(self.peak_mib, other.peak_mib), max(on_gpus, default=None))


_children: list[Use] = []  # of processes that this one had and that are gone


def begin_use() -> None:
    """Count memory from here on: what this process needed before is another stage's."""
    _children.clear()
    with contextlib.suppress(OSError):  # elsewhere than on Linux the peak is that of the process's whole life
        Path("/proc/self/clear_refs").write_text("5", "ascii")
    if torch := _torch_on_gpu():
        for index in range(torch.cuda.device_count()):
            torch.cuda.reset_peak_memory_stats(index)


def add_use(use: Use) -> None:
    """Count what a process used that this one had started."""
    _children.append(use)


def use_so_far() -> Use:
    """The memory at most since `begin_use`, of this process and those it had."""
    torch = _torch_on_gpu()
    peaks = [torch.cuda.max_memory_allocated(index) for index in range(torch.cuda.device_count())] if torch else []
    own = Use(round(_resident_mib(), 1), round(max(peaks) / 2**20, 1) if peaks else None)
    return reduce(or_, _children, own)


def used_by(make: Callable[..., Any], *arguments: Any) -> Use:
    """Call `make(*arguments)` in a process that was started for it; returns what it used."""
    begin_use()
    make(*arguments)
    return use_so_far()


def note_shard(layout: Layout, label: str, key: str, number: int) -> None:
    """Leave the use of this process, which made one shard, to the one that will put the stage together."""
    with contextlib.suppress(OSError):
        write_json(_shards(layout, label, key) / f"{number}.json", asdict(use_so_far()))


def note_made(layout: Layout, label: str, key: str, *, seconds: float, summary: dict[str, Any], resumed: bool) -> None:
    """Record a stage that this process has just finished. A full disk does not end the run over it."""
    use, folder = use_so_far(), _shards(layout, label, key)
    for file in folder.glob("*.json"):
        use |= Use(**(_read(file) or {}))
    shutil.rmtree(folder.parent, ignore_errors=True)
    row = {**_row(label, seconds, summary), **asdict(use), "workers": len(_children) or 1, "resumed": resumed}
    with contextlib.suppress(OSError):
        write_json(_file(layout, label), row)


def amend(layout: Layout, label: str, **changes: Any) -> None:
    """Change what is recorded of a stage, where that is known better elsewhere."""
    row = _read(_file(layout, label))
    if row is not None and any(row.get(name) != value for name, value in changes.items()):
        with contextlib.suppress(OSError):
            write_json(_file(layout, label), {**row, **changes})


def note_cached(layout: Layout, label: str, seconds: float, summary: dict[str, Any]) -> None:
    """Record that a stage was found up to date."""
    with contextlib.suppress(OSError):
        if not _file(layout, label).is_file():
            write_json(_file(layout, label), _row(label, seconds, summary))
    amend(layout, label, cached=True)


def items_of(stage: str, summary: dict[str, Any]) -> tuple[int | None, str]:
    """What a stage worked on by its summary, and what that is called; e.g. 500, "prompts"."""
    if stage == "evaluate":
        splits = sum(split["captions"] + split["questions"] for split in summary.get("splits", {}).values())
        return splits + sum(one["answered"] for one in summary.get("benchmarks", {}).values()), "answers"
    if stage == "prepare" and "prompts" not in summary:  # the held-out splits
        return sum(split["images"] for split in summary.values() if isinstance(split, dict)), "pictures"
    unit = {"prepare": "prompts", "generate": "prompts", "score": "sentences", "pair": "prompts", "finetune": "pairs"}
    name = unit.get(stage, "")
    return summary.get(name, summary.get("pairs")) if name else None, name


def _row(label: str, seconds: float | None, summary: dict[str, Any]) -> dict[str, Any]:
    stage, _, iteration = label.partition("@")
    items, unit = items_of(stage, summary)
    told = {"stage": stage, "iteration": int(iteration), "items": items, "unit": unit, "cached": False}
    return {**told, "seconds": None if seconds is None else round(seconds, 3)}


def _file(layout: Layout, label: str) -> Path:
    return layout.costs / f"{label}.json"


def _shards(layout: Layout, label: str, key: str) -> Path:
    return layout.state / "used" / label / key[:16]


def _read(file: Path) -> dict[str, Any] | None:
    try:
        return dict(read_json(file))
    except (OSError, ValueError):
        return None


def _resident_mib() -> float:
    try:
        lines = Path("/proc/self/status").read_text("ascii", errors="ignore").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def _torch_on_gpu() -> Any:
    """torch, where this process uses a GPU; nothing is imported and no GPU touched to find that out."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_initialized() else None
