"""Stage `finetune` as a task."""

from __future__ import annotations

from typing import Any

from tasks.run import Run, run_in_process
from tasks.stage import stage


@stage(gpu=True)
def finetune(iteration: int, run: Run) -> dict[str, Any]:
    """DPO on the pairs, from the model the iteration starts from."""
    return run_in_process("finetune", iteration, run)
