"""Stage `generate` as a task."""

from __future__ import annotations

from typing import Any

from tasks.run import Run
from tasks.stage import in_process, stage


@stage(gpu=True)
def generate(iteration: int, run: Run) -> dict[str, Any]:
    """Candidate responses as trees of sentences, by the model the iteration starts from."""
    return in_process("generate", iteration, run)
