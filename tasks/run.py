"""One CSR run: its settings, the folder all lies in, and what its stages are asked by content."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from csr_core.config import Settings
from csr_core.digests import Digests
from csr_core.layout import Layout
from csr_core.params import load_settings
from csr_core.stages.__main__ import Order
from csr_core.stages.plan import StageCall, plan
from csr_core.stages.runner import StageResult, stage_key, up_to_date


@dataclass(frozen=True)
class Run:
    """One CSR run: the settings file, what was changed on the command line, and the folder all lies in.

    Picklable and small, since it goes to the processes and machines that work on shards. `folder` is the working
    folder, absolute: all other paths are relative to it. Outputs lie below `layout.root`.
    """

    params: Path
    overrides: tuple[str, ...] = ()
    folder: Path = field(default_factory=Path.cwd)
    layout: Layout = field(default_factory=Layout)

    @property
    def settings(self) -> Settings:
        return load_settings(self.params, self.overrides)

    def call(self, stage: str, iteration: int) -> StageCall:
        return plan(stage, iteration, self.settings, self.layout)

    def order(self, stage: str, iteration: int, shard: int | None = None, halved: int = 0, beside: int = 0) -> Order:
        """What a process of a stage or shard is asked; `beside`: how many of them share the cores (see `Order`)."""
        return Order(stage, iteration, self.params, self.overrides, shard, halved, beside, self.layout.root)

    def digests(self, call: StageCall) -> Digests:
        return Digests(self.layout.state / "digests" / f"{call.label}.json")

    def key(self, call: StageCall) -> str:
        """What decides the stage's result, by content; Prefect's cache key."""
        return f"{call.label}-{stage_key(call, self.digests(call))}"

    def result(self, call: StageCall) -> StageResult | None:
        """The stage's result where its outputs lie there, made from these very inputs, and unchanged since."""
        return up_to_date(call, self.layout, self.digests(call))


def as_json(result: StageResult) -> dict[str, Any]:
    """What a stage made, by content: small enough for Prefect's JSON results."""
    return {
        "label": result.label,
        "key": result.key,
        "outputs": result.outputs,
        "left_out": len(result.summary.get("left_out", [])),
        "seconds": round(result.seconds, 1),
        "cached": result.cached,
    }


@contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """One driver at a time works in a folder; a second waits, and then finds done what it was to do."""
    layout.state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(layout.state / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print("another run works in this folder: waiting for its end", file=sys.stderr, flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
