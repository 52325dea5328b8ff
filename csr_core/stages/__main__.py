"""`python -m csr_core.stages NAME --iteration K`: one stage, or one shard of it, in a process of its own.

Exit status: 0 done, 2 settings or inputs were refused, 3 out of memory.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

from csr_core.errors import CsrError, OutOfMemoryError
from csr_core.layout import Layout
from csr_core.left_out import reasons
from csr_core.params import load_settings
from csr_core.reward.verdict import refuse_unfit
from csr_core.stages import STAGES
from csr_core.stages.gpus import gpu_slot
from csr_core.stages.launch import process_count
from csr_core.stages.memory import halved_before, memory_errors, note_halved
from csr_core.stages.plan import plan
from csr_core.stages.runner import StageResult, run_shard, run_stage
from csr_core.stages.shards import share_cores

REFUSED, OUT_OF_MEMORY = 2, 3
# A file in which whoever started this process looks for the reason of such an end, to tell it once for all shards.
REASON_FILE = "CSR_REASON_FILE"
ON_GPU = ("generate", "score", "finetune", "evaluate")
REWARDED = ("prepare", "generate", "score")  # the way to rewards: refused before time is spent on it


@dataclass(frozen=True)
class Order:
    """What a stage process is asked to do, in the present working folder.

    root: where the outputs lie. shard: one shard alone; None: the stage, with its missing shards. halved: see `plan`.
    side_by_side: how many such processes share the machine's cores; 0: no other, and the stage's own workers are those
    of the settings.
    """

    stage: str
    iteration: int
    params: Path = Path("params.yaml")
    overrides: tuple[str, ...] = ()
    shard: int | None = None
    halved: int = 0
    side_by_side: int = 0
    root: Path = Path()

    def arguments(self) -> list[str]:
        """The same as command line arguments."""
        words = [self.stage, "--iteration", str(self.iteration), "--params", str(self.params)]
        words += [word for change in self.overrides for word in ("--set", change)]
        words += ["--shard", str(self.shard)] if self.shard is not None else []
        words += ["--halved", str(self.halved), "--side-by-side", str(self.side_by_side)]
        return [*words, "--root", str(self.root)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--iteration", type=int, required=True)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    parser.add_argument("--shard", type=int, help="this shard alone")
    parser.add_argument("--halved", type=int, default=0, help="how often to halve the batches")
    parser.add_argument("--side-by-side", type=int, default=0, help="processes that share the cores")
    parser.add_argument("--root", type=Path, default=Path(), help="folder of the outputs")
    parser.add_argument("--end-with", type=int, metavar="PID", help="end once the parent, this PID, is gone")
    given = vars(parser.parse_args(arguments))
    end_with = given.pop("end_with")
    if end_with:
        end_with_parent(end_with)
    # Whoever started this process tells the whole of the stage, of which this may be the last part.
    return carry_out(Order(**{**given, "overrides": tuple(given["overrides"])}), tell=not end_with)


def carry_out(order: Order, tell: bool) -> int:
    """Run the stage or the shard and return the exit status; errors, and with `tell` the result, are said in words."""
    # What one library says to another about its next release is no news for the user.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        settings, layout = load_settings(order.params, order.overrides), Layout(order.root)
        if order.iteration > 0 and order.stage in REWARDED:
            refuse_unfit(settings)
        halved = max(order.halved, halved_before(order.stage, settings, layout))
        call = plan(order.stage, order.iteration, settings, layout, halved)
        if order.side_by_side:
            share_cores(order.side_by_side)
        device = settings.model.device if order.stage in ON_GPU else "cpu"
        gpus = process_count(settings) if order.stage == "finetune" else 1
        with gpu_slot(device, count=gpus) as gpu, memory_errors(order.stage):
            if order.shard is not None:
                run_shard(call, layout, order.shard)
                return 0
            # Workers of this process would have to share the one GPU it holds.
            result = run_stage(call, layout, 1 if gpu or order.side_by_side else settings.run.workers)
    except OutOfMemoryError as error:
        note_halved(order.stage, settings, layout, halved + 1)
        _hand_over(error)
        print(f"csr: {error}; tried again, it will take half of that", file=sys.stderr, flush=True)
        return OUT_OF_MEMORY
    except CsrError as error:
        if not _hand_over(error):
            print(f"csr: {error}", file=sys.stderr, flush=True)
        return REFUSED
    if tell:
        print(describe(result), flush=True)
    return 0


def _hand_over(error: CsrError) -> bool:
    """Whether the reason is where whoever started this process looks for it."""
    file = os.environ.get(REASON_FILE)
    with contextlib.suppress(OSError):  # a full disk: then it is said here
        return bool(file) and Path(str(file)).write_text(str(error), "utf-8") > 0
    return False


def describe(result: StageResult) -> str:
    """One line on what a stage did; where it did something, what was left out and the first reasons."""
    how = (
        "up to date"
        if result.cached
        else f"done in {result.seconds:.1f} s" + (f" ({result.told})" if result.told else "")
    )
    left_out = result.summary.get("left_out", [])
    if result.cached:  # the reasons were told when it was made
        return f"{result.label}: {how}" + (f"; left out {len(left_out)} (in its summary.json)" if left_out else "")
    lines = [f"{result.label}: {how}" + (f"; left out {len(left_out)}:" if left_out else "")]
    return "\n".join([*lines, *(f"  - {reason}" for reason in reasons(left_out, ", in its summary.json"))])


def end_with_parent(parent: int) -> None:
    """End this process group once its parent is gone.

    A driver that was killed cannot end its stage, and work nobody waits for must not hold the GPU.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
