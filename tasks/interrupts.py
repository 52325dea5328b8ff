"""Ctrl-C is sent to every process of a terminal: what becomes of those that help a run."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started within the block never receive SIGINT: a new process has its parent's mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_without_a_word() -> None:
    """Let SIGINT end this process as the system does, not with a traceback of whatever it was waiting for."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
