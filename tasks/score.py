"""Stage `score` as a task."""

from __future__ import annotations

from typing import Any

from tasks.run import Run
from tasks.stage import in_process, stage


@stage(gpu=True)
def score(iteration: int, run: Run) -> dict[str, Any]:
    """The calibrated reward of every sentence."""
    return in_process("score", iteration, run)
