"""A process for each stage or shard: its memory is gone when it ends, and none is left behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from csr_core.errors import InputError, OutOfMemoryError
from csr_core.progress import PROGRESS_FILE
from csr_core.stages.__main__ import OUT_OF_MEMORY, REASON_FILE, REFUSED, Order, carry_out, end_with_parent
from csr_core.stages.gpus import visible_gpus
from csr_core.stages.shards import PRELOAD
from tasks.interrupts import deaf_to_interrupts

_guard = threading.Lock()
_groups: set[int] = set()  # process groups that run now
_ending = False


def run_process(order: Order, folder: Path, progress: Path | None = None) -> None:
    """Carry out `order` in `folder`, in a process group of its own that ends with this call however it ends.

    `progress`: file that the process counts into.

    Raises:
        InputError: the stage refused its settings or inputs, for this reason; a retry cannot help.
        OutOfMemoryError: a smaller batch may help. RuntimeError: the process died of something else.
    """
    _end_with_flow()
    with tempfile.TemporaryDirectory() as here:
        file = Path(here, "reason")
        environment = {REASON_FILE: str(file), **({PROGRESS_FILE: str(progress)} if progress else {})}
        code = _run(lambda: _start(order, folder, environment))
        reason = file.read_text("utf-8") if file.exists() else None
    name = f"{order.stage}@{order.iteration}" + (f", shard {order.shard}" if order.shard is not None else "")
    if code == REFUSED:
        raise InputError(reason or f"{name} refused its settings or inputs: the reason stands above")
    if code == OUT_OF_MEMORY:
        raise OutOfMemoryError(reason or f"{name} ran out of memory: the setting to lower stands above")
    if code == -signal.SIGKILL:
        raise OutOfMemoryError(
            f"{name} was killed, most likely by the system for the memory it took: lower run.workers"
        )
    if code < 0:
        raise RuntimeError(f"{name} was killed by signal {-code}: see what it printed above")
    if code:
        raise RuntimeError(f"{name} failed with exit status {code}: see what it printed above")


def end_all() -> None:
    """Kill every stage process of this one, and start no more: the flow is being stopped."""
    global _ending
    with _guard:
        _ending = True
        for group in _groups:
            _kill(group)


def _run(start: Callable[[], Any]) -> int:
    """Start a process, wait for it, and end its group; returns its exit status, negative for a signal."""
    with _guard:
        if _ending:
            raise RuntimeError("the run is being stopped: no further stage is started")
        process = start()
        _groups.add(process.pid)
    try:
        if isinstance(process, subprocess.Popen):
            return process.wait()
        process.join()
        return int(process.exitcode or 0)
    finally:
        _kill(process.pid)
        with _guard:
            _groups.discard(process.pid)


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:  # ended, or so new that it leads no group yet
        with contextlib.suppress(ProcessLookupError):
            os.kill(group, signal.SIGKILL)


def _start(order: Order, folder: Path, environment: dict[str, str]) -> Any:
    """Where there is a GPU, a new interpreter; else a fork of a process that has imported what stages need.

    On a CPU small models run for seconds, and imports would take longer than the work. A GPU's driver does not
    survive a fork.
    """
    if _may_fork():
        process = _forks().Process(target=_forked, args=(order, folder, environment), name=order.stage)
        process.start()
        return process
    command = [sys.executable, "-m", "csr_core.stages", *order.arguments(), "--end-with", str(os.getpid())]
    return subprocess.Popen(command, cwd=folder, env={**os.environ, **environment}, start_new_session=True)


def _may_fork() -> bool:
    return not visible_gpus()


def _forks() -> Any:
    context = multiprocessing.get_context("forkserver")
    # A forked process runs the main module again, so what that imports is imported beforehand too.
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    main = [spec.name] if spec else ["ray"] if "ray" in sys.modules else []
    context.set_forkserver_preload([PRELOAD, "trl.trainer.dpo_trainer", *main])
    return context


def begin() -> None:
    """A new flow in this process may start stages, whatever became of the one before."""
    global _ending
    _ending = False


def warm_up() -> None:
    """Start the process that stages are forked from, so that it imports while other work is done."""
    if _may_fork():
        from multiprocessing import forkserver, resource_tracker

        _forks()
        resource_tracker.ensure_running()  # its start would unblock SIGINT again
        with deaf_to_interrupts():  # which would break its imports off with a traceback
            forkserver.ensure_running()


def _forked(order: Order, folder: Path, environment: dict[str, str]) -> None:
    os.setsid()
    end_with_parent(os.getppid())
    os.environ.update(environment)
    os.chdir(folder)
    sys.exit(carry_out(order, tell=False))


_watched = False


def _end_with_flow() -> None:
    """In a worker process of the task runner: end with the flow's process, which cannot end it when it is killed."""
    global _watched
    parent = multiprocessing.parent_process()
    if parent is None or _watched:
        return
    _watched = True

    def watch() -> None:
        parent.join()
        end_all()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
