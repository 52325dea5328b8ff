"""Ctrl-C at the terminal: the run ends, and says in one line that it can go on."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

STATUS = 130  # 128 + SIGINT, as shells have it


@contextmanager
def told_when_stopped() -> Iterator[None]:
    """Around a flow: on SIGINT, one line and exit status 130. Prefect's page still gets Prefect's own log.

    Raises:
        Exit: SIGINT came, whatever error it left the block with: other threads and the server are ended by it too.
    """
    before, stopped = signal.getsignal(signal.SIGINT), False

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        stopped = True
        for console in logging.getLogger().handlers:
            console.addFilter(lambda record: False)  # Prefect tells of each task as of a crash, which it is not
        signal.default_int_handler(number, frame)

    if before is signal.default_int_handler:  # else it is ignored, as under nohup, or another's
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    except BaseException:
        if not stopped:
            raise
        print("csr: stopped; the same command goes on from here", file=sys.stderr, flush=True)
        raise typer.Exit(STATUS) from None
    finally:
        signal.signal(signal.SIGINT, before)


def spare_the_server() -> None:
    """Let Prefect's temporary server live on after Ctrl-C, which a terminal sends to every process of the run.

    Without it the run could not tell how it ended, and would wait for the server for minutes. It is stopped at exit.
    """
    from prefect.server.api.server import SubprocessASGIServer

    from tasks.interrupts import deaf_to_interrupts

    start = SubprocessASGIServer._run_uvicorn_command

    def start_deaf(self: SubprocessASGIServer) -> subprocess.Popen[Any]:
        with deaf_to_interrupts():
            return start(self)

    SubprocessASGIServer._run_uvicorn_command = start_deaf  # type: ignore[method-assign]
