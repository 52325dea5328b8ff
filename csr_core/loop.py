"""All iterations in one process, without an orchestrator: for ablations, benchmarks and tests."""

from __future__ import annotations

from collections.abc import Callable

from csr_core.config import Settings
from csr_core.layout import Layout
from csr_core.stages.plan import plan
from csr_core.stages.runner import StageResult, run_stage

ITERATION = ("prepare", "generate", "score", "pair", "finetune", "evaluate")
FROM_PAIRS = ITERATION[ITERATION.index("pair") :]  # of an iteration whose pairs are imported


def iterate(settings: Settings, layout: Layout, report: Callable[[StageResult], None] = lambda result: None) -> None:
    """Measure the base, then run `settings.iterations` iterations of the method; the same stages as `flows.iterate`."""
    todo = [("prepare", 0), ("evaluate", 0)]
    for k in range(1, settings.iterations + 1):
        todo += [(name, k) for name in (FROM_PAIRS if k in settings.pair.imported else ITERATION)]
    for name, k in todo:
        report(run_stage(plan(name, k, settings, layout), layout, settings.run.workers))
