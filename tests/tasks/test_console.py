"""What of Prefect's log stays at the terminal: crashes with their tracebacks, not what a run's last line tells."""

import io
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from csr_core.errors import InputError, OutOfMemoryError, SettingsError
from tasks.console import _is_no_mistake, tell_mistakes_once

NOT_TO_API = {"send_to_api": False}


@pytest.fixture
def terminal() -> Iterator[io.StringIO]:
    console = logging.StreamHandler(stream := io.StringIO())
    logging.getLogger().addHandler(console)
    tell_mistakes_once()
    yield stream
    logging.getLogger().removeHandler(console)
    for other in logging.getLogger().handlers:
        other.removeFilter(_is_no_mistake)


@pytest.mark.parametrize("kind", [InputError, SettingsError, OutOfMemoryError])
def test_a_mistake_is_left_to_the_last_line(terminal: io.StringIO, kind: type[Exception]) -> None:
    log(kind("no such picture"))
    assert terminal.getvalue() == ""


def test_a_crash_stays_with_its_traceback(terminal: io.StringIO) -> None:
    log(RuntimeError("a shape that does not fit"))
    assert "Finished in state Failed" in terminal.getvalue()
    assert "Traceback" in terminal.getvalue()


def test_a_run_outlives_its_reader() -> None:
    lines = "from tasks.console import say; input(); say('one'); say('two'); print('three')"
    process = subprocess.Popen(
        [sys.executable, "-c", lines], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    assert process.communicate(b"go\n", 60) == (None, b"")
    assert process.returncode == 0


def log(error: Exception) -> None:
    """As Prefect's engines do it."""
    kind = type(error).__name__
    told = f"Finished in state Failed('Task run encountered an exception {kind}: {error}')"
    logging.getLogger("prefect.task_runs").error(told, extra=NOT_TO_API)
    try:
        raise error
    except Exception:
        logging.getLogger("prefect.flow_runs").exception(
            "Encountered exception during execution: %r", error, extra=NOT_TO_API
        )
