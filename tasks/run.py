"""What every task shares: the run's settings, the cache key by content, and a process for each stage."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csr_core.config import Settings
from csr_core.digests import Digests
from csr_core.errors import InputError
from csr_core.layout import Layout
from csr_core.params import load_settings
from csr_core.stages.plan import StageCall, plan
from csr_core.stages.runner import StageResult, run_stage, stage_key, up_to_date


@dataclass(frozen=True)
class Run:
    """One CSR run: the settings file, what was changed on the command line, and the folder all lies in."""

    params: Path
    overrides: tuple[str, ...] = ()
    layout: Layout = field(default_factory=Layout)

    @property
    def settings(self) -> Settings:
        return load_settings(self.params, self.overrides)

    def call(self, stage: str, iteration: int) -> StageCall:
        return plan(stage, iteration, self.settings, self.layout)

    def digests(self, call: StageCall) -> Digests:
        return Digests(self.layout.state / "digests" / f"{call.label}.json")


def cache_key(stage: str, iteration: int, run: Run) -> str:
    """Prefect's cache key of a stage: what it reads, by content."""
    call = run.call(stage, iteration)
    return f"{call.label}-{stage_key(call, run.digests(call))}"


def is_done(stage: str, iteration: int, run: Run) -> bool:
    """Whether the stage's outputs lie there, made from these very inputs, and unchanged since."""
    call = run.call(stage, iteration)
    return up_to_date(call, run.layout, run.digests(call)) is not None


def run_in_process(stage: str, iteration: int, run: Run) -> dict[str, Any]:
    """Run a stage in a process group of its own, which ends with the task however the task ends.

    Returns: what the stage made, by content (`key`, `outputs`), small enough for Prefect's JSON results.

    Raises:
        InputError: the stage refused its settings or inputs; a retry cannot help.
        RuntimeError: the process died (out of memory, killed).
    """
    call = run.call(stage, iteration)
    result = up_to_date(call, run.layout, run.digests(call))
    if result is None:
        _run_process(stage, iteration, run)
        result = up_to_date(call, run.layout, run.digests(call))
        if result is None:
            raise RuntimeError(f"{call.label} ended without its outputs: see what it printed above")
    return as_json(result)


def run_here(stage: str, iteration: int, run: Run) -> dict[str, Any]:
    """Run a light stage in this process."""
    return as_json(run_stage(run.call(stage, iteration), run.layout))


def as_json(result: StageResult) -> dict[str, Any]:
    return {"label": result.label, "key": result.key, "outputs": result.outputs, "left_out": _left_out(result)}


def _left_out(result: StageResult) -> int:
    return len(result.summary.get("left_out", []))


def _run_process(stage: str, iteration: int, run: Run) -> None:
    command = [sys.executable, "-m", "csr_core.stages", stage, "--iteration", str(iteration)]
    command += ["--params", str(run.params), "--end-with", str(os.getpid())]
    for change in run.overrides:
        command += ["--set", change]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if code == 2:
        raise InputError(f"{stage}@{iteration} refused its settings or inputs: the reason stands above")
    if code != 0:
        cause = f"was killed by signal {-code}" if code < 0 else f"failed with exit status {code}"
        hint = " (out of memory? lower its batch_size)" if code == -signal.SIGKILL else ""
        raise RuntimeError(f"{stage}@{iteration} {cause}{hint}")
