"""Ctrl-C at a terminal, which sends SIGINT to every process of the run, its task runner's among them; and `kill`."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import SMALL, csr, sets
from tests.e2e.site import wait_for

# A test runner in the background ignores SIGINT, and so would all it starts.
CSR = "import signal, flows.cli; signal.signal(signal.SIGINT, signal.default_int_handler); flows.cli.main()"


@pytest.mark.parametrize(
    ("runner", "stop", "number"),
    [
        ("threads", os.killpg, signal.SIGINT),
        ("processes", os.killpg, signal.SIGINT),
        ("processes", os.kill, signal.SIGTERM),
        ("threads", os.killpg, signal.SIGTERM),  # as `timeout` does
    ],
)
def test_a_stopped_run_ends_soon_with_one_line(
    tmp_path: Path, runner: str, stop: Callable[[int, int], None], number: signal.Signals
) -> None:
    csr(tmp_path, "init")
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment |= {"PREFECT_HOME": str(tmp_path / ".prefect")}
    with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
        run = subprocess.Popen(
            [sys.executable, "-c", CSR, "run", *sets([*SMALL, f"run.task_runner={runner}", "run.workers=2"])],
            cwd=tmp_path, env=environment, stdout=out, stderr=err, start_new_session=True,
        )  # fmt: skip
    try:
        assert wait_for(lambda: list(tmp_path.glob(".csr/unfinished/evaluate@0*")), 120)
        stop(run.pid, number)
        assert run.wait(30) == 128 + number
    finally:
        run.kill()
    told = (tmp_path / "err").read_text().splitlines()
    progress = ("prepare ", "evaluate ", "generate ")  # on a slow machine
    assert [line for line in told if not line.startswith(progress)] == [
        "csr: stopped; the same command goes on from here"
    ]
    with contextlib.closing(sqlite3.connect(tmp_path / ".prefect" / "prefect.db")) as history:
        assert history.execute("select state_type from flow_run").fetchall() == [("CRASHED",)]  # the server still heard
    assert wait_for(lambda: not started_in(tmp_path), 20), started_in(tmp_path)


def started_in(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("PREFECT_HOME") == str(folder / ".prefect"):
                found.append(" ".join(process.cmdline()))
    return found
