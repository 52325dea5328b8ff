"""Stage `evaluate` as a task."""

from __future__ import annotations

from typing import Any

from tasks.run import Run
from tasks.stage import in_process, stage


@stage(gpu=True)
def evaluate(iteration: int, run: Run) -> dict[str, Any]:
    """Hallucination and ability on held-out pictures, against the previous model and the base."""
    return in_process("evaluate", iteration, run)
