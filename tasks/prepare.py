"""Stage `prepare` as a task."""

from __future__ import annotations

from typing import Any

from tasks.run import Run
from tasks.stage import here, stage


@stage(gpu=False)
def prepare(iteration: int, run: Run) -> dict[str, Any]:
    """The prompts of the iteration, their pictures checked; for iteration 0, the held-out splits."""
    return here("prepare", iteration, run)
