"""Stage `pair` as a task."""

from __future__ import annotations

from typing import Any

from tasks.run import Run
from tasks.stage import here, stage


@stage(gpu=False)
def pair(iteration: int, run: Run) -> dict[str, Any]:
    """Best and worst response of every picture."""
    return here("pair", iteration, run)
