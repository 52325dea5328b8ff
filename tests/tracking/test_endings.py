"""However a run ends, MLflow says so, and nothing stays behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from prefect.exceptions import TerminationSignal

from tasks.run import Run
from tasks.tracking import tracked
from tests.tracking.conftest import client_of
from tests.tracking.world import made

WAITS = """
import sys, time
from pathlib import Path
from tasks.tracking import tracked
from tests.tracking.world import make_run
with tracked(make_run(Path(sys.argv[1]))) as track, track.stage("generate", 1):
    print(track.run_id, flush=True)
    time.sleep(600)
"""

RECORDS = """
import sys
from pathlib import Path
from tasks.tracking import tracked
from tests.tracking.world import make_run, record
with tracked(make_run(Path(sys.argv[1]))) as track:
    record(track, 0)
    record(track, 1)
"""


def start(program: str, folder: Path) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-c", program, str(folder)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def statuses(folder: Path, run_id: str) -> dict[str, str]:
    client = client_of(folder)
    found = client.search_runs([client.get_run(run_id).info.experiment_id])
    return {run.info.run_name: run.info.status for run in found}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("out of memory"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
        (TerminationSignal(signal.SIGTERM), "KILLED"),
    ],
)
def test_an_exception_ends_the_run_and_all_below_it(
    new_run: Callable[..., Run], tmp_path: Path, error: BaseException, status: str
) -> None:
    with contextlib.suppress(type(error)), tracked(new_run()) as track:
        with track.stage("generate", 1) as child:
            child.finished(made(track.run, "generate", 1), None)
        with track.stage("score", 1):
            raise error
    assert statuses(tmp_path, track.run_id) == {
        "csr steady seed 0": status,
        "iteration 1": status,
        "generate@1": "FINISHED",
        "score@1": status,
    }


def test_the_watchdog_leaves_with_the_run(new_run: Callable[..., Run]) -> None:
    def watchdogs() -> list[psutil.Process]:
        return [p for p in psutil.Process().children() if "tasks.watchdog" in p.cmdline()]

    with tracked(new_run()):
        assert len(watchdogs()) == 1
        assert os.getsid(watchdogs()[0].pid) != os.getsid(0)
    assert watchdogs() == []


def test_after_kill_9_the_run_is_killed_and_no_process_is_left(new_run: Callable[..., Run], tmp_path: Path) -> None:
    new_run()
    process = start(WAITS, tmp_path)
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    assert run_id, process.communicate()[1]
    [watchdog] = psutil.Process(process.pid).children()
    process.kill()
    process.communicate()
    killed = time.monotonic()
    while "RUNNING" in statuses(tmp_path, run_id).values() and time.monotonic() - killed < 20:
        time.sleep(0.2)
    assert set(statuses(tmp_path, run_id).values()) == {"KILLED"}
    psutil.wait_procs([watchdog], timeout=20)
    assert not watchdog.is_running() or watchdog.status() == psutil.STATUS_ZOMBIE  # of an init that does not reap


def test_two_runs_begin_at_once_on_no_store_at_all(tmp_path: Path) -> None:
    both = [start(RECORDS, tmp_path) for _ in range(2)]
    for process in both:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    client = client_of(tmp_path)
    [experiment] = [e for e in client.search_experiments() if e.name == "csr"]
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2 * (1 + 2 + 2 + 7)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(client.search_model_versions("name = 'csr'")) == 2
