"""`python -m csr_core.stages NAME --iteration K`: one stage in a process of its own, whose memory ends with it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

from csr_core.errors import CsrError
from csr_core.layout import Layout
from csr_core.params import load_settings
from csr_core.stages.plan import STAGES, plan
from csr_core.stages.runner import StageResult, run_stage


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=STAGES)
    parser.add_argument("--iteration", type=int, required=True)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    parser.add_argument(
        "--end-with", type=int, metavar="PID", help="kill this process group once its parent PID is gone"
    )
    args = parser.parse_args(arguments)
    # What one library says to another about its next release is no news for the user.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    if args.end_with:
        threading.Thread(target=_end_with_parent, args=(args.end_with,), daemon=True).start()
    try:
        settings = load_settings(args.params, args.overrides)
        result = run_stage(plan(args.name, args.iteration, settings, Layout()), Layout())
    except CsrError as error:
        print(f"csr: {error}", file=sys.stderr)
        return 2
    print(describe(result))
    return 0


def describe(result: StageResult) -> str:
    """One line on what a stage did, with what was left out and the first reasons."""
    how = "up to date" if result.cached else f"done in {result.seconds:.1f} s"
    left_out = result.summary.get("left_out", [])
    lines = [f"{result.label}: {how}" + (f"; left out {len(left_out)}:" if left_out else "")]
    lines += [f"  - {item['prompt_id']}: {item['reason']}" for item in left_out[:10]]
    if len(left_out) > 10:
        lines.append(f"  - ... and {len(left_out) - 10} more, in its summary.json")
    return "\n".join(lines)


def _end_with_parent(parent: int) -> None:
    """A driver that was killed cannot end its stage; work nobody waits for must not hold the GPU."""
    while os.getppid() == parent:
        time.sleep(1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
