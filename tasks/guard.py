"""Stage `guard` as a task."""

from __future__ import annotations

from typing import Any

from csr_core.records import read_json
from csr_core.stages.guard import stopped
from tasks.run import Run
from tasks.stage import here, stage


@stage(gpu=False)
def guard(iteration: int, run: Run) -> dict[str, Any]:
    """What the guards say of the iteration, and whether it is stopped."""
    return here("guard", iteration, run)


def ends_here(iteration: int, run: Run) -> bool:
    """Whether the run ends with this iteration because a guard stopped it; says so, and what the others warn of."""
    fired = [one for one in read_json(run.layout.guards(iteration)) if one["fired"]]
    for one in fired:
        stops = one["guard"] in run.settings.guards.stop_on
        print(
            f"guard {one['guard']} {'stops' if stops else 'warns of'} iteration {iteration}: {one['sentence']}",
            flush=True,
        )
    return stopped(iteration, run.layout) and run.settings.guards.after_stop == "end"
