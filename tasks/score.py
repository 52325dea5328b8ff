"""Stage `score` as a task."""

from __future__ import annotations

from typing import Any

from tasks.run import Run, run_in_process
from tasks.stage import stage


@stage(gpu=True)
def score(iteration: int, run: Run) -> dict[str, Any]:
    """The calibrated reward of every sentence."""
    return run_in_process("score", iteration, run)
