"""Ctrl-C at the terminal, or SIGTERM: the run ends, and says in one line that it can go on."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, SimpleNamespace

import typer

USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


@contextmanager
def told_when_stopped() -> Iterator[None]:
    """Around a flow: on SIGINT or SIGTERM, one line and exit status 130 or 143 (128 + signal, as shells have it).

    Prefect's page still gets Prefect's own log.

    Raises:
        Exit: a signal came, whatever error it left the block with: other threads and the server are ended by it too.
    """
    before, stopped = {number: signal.getsignal(number) for number in USUAL}, 0

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = number
        for console in logging.getLogger().handlers:
            console.addFilter(lambda record: False)  # Prefect tells of each task as of a crash, which it is not
        _end_task_runner()
        signal.default_int_handler(number, frame)

    for number, usual in USUAL.items():
        if before[number] is usual:  # else it is ignored, as under nohup, or another's
            signal.signal(number, stop)
    try:
        yield
    except BaseException:
        if not stopped:
            raise
        print("csr: stopped; the same command goes on from here", file=sys.stderr, flush=True)
        raise typer.Exit(128 + stopped) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_task_runner() -> None:
    """End its processes, which would be waited for, with what they started: each has a Prefect server of its own."""
    import psutil

    for child in multiprocessing.active_children():
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(child.pid)
            for process in [top, *top.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    process.terminate()


def keep_handler() -> None:
    """Let Prefect's flow leave SIGTERM to `told_when_stopped`: its own handler tells of a crash, and skips the end."""
    from prefect.utilities import engine

    vars(engine)["_prefect_sigterm_handler"] = signal.getsignal(signal.SIGTERM)


def spare_the_server() -> None:
    """Let Prefect's temporary server live on after Ctrl-C or `timeout`, which signal to every process of the run.

    Without it the run could not tell how it ended, and would wait for the server for minutes. It is stopped at exit.
    """
    from prefect.server.api import server

    # In a session of its own no signal to the run's group reaches it.
    apart = functools.partial(subprocess.Popen, start_new_session=True)
    vars(server)["subprocess"] = SimpleNamespace(**{**vars(subprocess), "Popen": apart})
