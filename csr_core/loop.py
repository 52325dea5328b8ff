"""All iterations in one process, without an orchestrator: for ablations, benchmarks and tests."""

from __future__ import annotations

from collections.abc import Callable

from csr_core.config import Settings
from csr_core.layout import Layout
from csr_core.stages import STAGES
from csr_core.stages.guard import stopped
from csr_core.stages.plan import plan
from csr_core.stages.runner import StageResult, run_stage

ITERATION = STAGES
BASE = ("prepare", "evaluate")
FROM_PAIRS = ITERATION[ITERATION.index("pair") :]  # of an iteration whose pairs are imported


def iterate(settings: Settings, layout: Layout, report: Callable[[StageResult], None] = lambda result: None) -> None:
    """Measure the base, then run `settings.iterations` iterations of the method; the same stages as `flows.iterate`."""
    for k in range(settings.iterations + 1):
        names = BASE if k == 0 else FROM_PAIRS if k in settings.pair.imported else ITERATION
        for name in names:
            report(run_stage(plan(name, k, settings, layout), layout, settings.run.workers))
        if stopped(k, layout) and settings.guards.after_stop == "end":
            break
