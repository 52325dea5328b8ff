"""Stage `finetune` as a task."""

from __future__ import annotations

from typing import Any

from tasks.run import Run
from tasks.stage import in_process, stage


@stage(gpu=True)
def finetune(iteration: int, run: Run) -> dict[str, Any]:
    """DPO on the pairs, from the model the iteration starts from."""
    return in_process("finetune", iteration, run)
