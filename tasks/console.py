"""What is said at the terminal of a run; of Prefect's log, not what the command line tells itself in its last line."""

from __future__ import annotations

import logging
import os
import sys

from csr_core.errors import CsrError


def say(text: str) -> None:
    """Print a line of a run, which goes on without a word where its reader is gone, as after `csr run | head`."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell_mistakes_once() -> None:
    """Leave a mistake of the user's (`CsrError`) out of Prefect's log at the terminal: the run's last line is about it.

    Prefect tells of it for each shard, and with its own traceback. Its page keeps all of that, and a crash stays here.
    """
    import prefect.main  # noqa: F401  its import makes the handlers

    for console in logging.getLogger().handlers:
        console.addFilter(_is_no_mistake)


def _is_no_mistake(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], CsrError):
        return False
    text = record.getMessage() if record.name.startswith("prefect.") else ""
    return not any(f"encountered an exception {name}:" in text for name in _names(CsrError))


def _names(kind: type[CsrError]) -> list[str]:
    return [kind.__name__, *(name for below in kind.__subclasses__() for name in _names(below))]
