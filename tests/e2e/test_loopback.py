"""No look-up and no connection beyond loopback, by any of the programs: tests/loopback/sitecustomize.py watches them.

By hand, for a command of your own: see the head of that file.
"""

import contextlib
import json
import os
import pty
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.site import PROJECT, Site, free_port, wait_for

# A new user's environment: nothing in it says "this is a test", which alone would keep most telemetry off.
KEPT = ("PATH", "PWD", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "CSR_TEST_MARK")
# Tries to reach a name, an address and all interfaces; a second hook ends each try before anything leaves.
CONTROL = """
import socket, sys

def stop(event, arguments):
    if event in ("socket.getaddrinfo", "socket.connect", "socket.bind"):
        raise OSError("no further")

sys.addaudithook(stop)
for attempt in (
    lambda: socket.getaddrinfo("example.com", 443),
    lambda: socket.socket().connect(("192.0.2.1", 443)),
    lambda: socket.socket().bind(("", 0)),
    lambda: socket.socket().connect(("127.0.0.1", 9)),
):
    try:
        attempt()
    except OSError as error:
        assert str(error) == "no further"
"""


class Terminal:
    """Commands in a site's folder, watched, as typed by a new user: some telemetry is sent from a terminal only."""

    def __init__(self, site: Site, home: Path, log: Path) -> None:
        home.mkdir()
        log.mkdir()
        self.site, self.log = site, log
        self.environment = {
            **{name: site.environment[name] for name in KEPT if name in site.environment},
            **{name: value for name, value in site.environment.items() if name.startswith("PREFECT_")},
            "HOME": str(home),
            "PYTHONPATH": str(PROJECT / "tests" / "loopback"),
            "LOOPBACK_LOG": str(log),
        }
        self._started: list[subprocess.Popen[bytes]] = []

    def run(self, *words: str) -> str:
        """Run a command to its end; returns what it printed."""
        process, reader, said = self._start(words)
        reader.join()
        text = b"".join(said).decode(errors="replace")
        assert process.wait() == 0, f"{words} ended with {process.returncode}:\n{text}"
        return text

    def start(self, *words: str) -> None:
        """Start a command that goes on until `stop`."""
        self._started.append(self._start(words)[0])

    def stop(self) -> None:
        for process in reversed(self._started):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(15)

    def seen(self, name: str) -> list[dict[str, Any]]:
        """The rows of a file that the watched processes wrote."""
        file = self.log / f"{name}.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []

    def _start(self, words: tuple[str, ...]) -> tuple["subprocess.Popen[bytes]", threading.Thread, list[bytes]]:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            words, cwd=self.site.folder, env=self.environment, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        said: list[bytes] = []

        def read() -> None:
            with contextlib.suppress(OSError):  # raised at the end, when no process holds the other side
                while chunk := os.read(ours, 65536):
                    said.append(chunk)
            os.close(ours)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        return process, reader, said


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    site = Site(tmp_path / "checkout", free_port())
    made = Terminal(site, tmp_path / "home", tmp_path / "seen")
    try:
        yield made
    finally:
        made.stop()
        site.stop()


def answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=30) as answer:
        return bool(answer.status == 200)
    return False


def test_nothing_beyond_loopback(terminal: Terminal) -> None:
    terminal.run(sys.executable, "-c", CONTROL)
    control = [row["host"] for row in terminal.seen("outside")]
    assert control == ["example.com", "192.0.2.1", "0.0.0.0"]
    (terminal.log / "outside.jsonl").unlink()

    terminal.run("csr", "init", "--params", "../params.yaml")  # not over the small settings
    terminal.run("csr", "check", "--no-trial")
    assert "a temporary server for this run" in terminal.run("csr", "run")
    mlflow = start_servers(terminal)
    assert "Completed" in terminal.run("prefect", "deployment", "run", "csr/iterate", "--watch")
    for page in ("", "ajax-api/2.0/mlflow/experiments/search?max_results=5", "ajax-api/3.0/mlflow/ui-telemetry"):
        assert answers(f"{mlflow}/{page}"), page
    assert "up to date" in terminal.run("dvc", "status")
    assert "Running stage" not in terminal.run("dvc", "repro")
    assert "Running stage" in terminal.run("dvc", "repro", "--force", "--single-item", "pair@1")

    watched = {" ".join(row["command"]) for row in terminal.seen("processes")}
    for program in PROGRAMS:
        assert any(program in command for command in watched), (program, watched)
    assert not terminal.seen("outside"), "\n" + "\n".join(told(row) for row in terminal.seen("outside"))


PROGRAMS = (
    "csr run",
    "prefect.server.api.server:create_app",
    "forkserver",
    "tasks.watchdog",
    "prefect server start",
    "prefect worker start",
    "prefect.engine",
    "mlflow ui",
    "mlflow.server.fastapi_app:app",
    "dvc repro",
    "csr stage pair",
)


def start_servers(terminal: Terminal) -> str:
    """The README's commands: MLflow's page, Prefect server, work pool, deployments, worker; returns the page's URL."""
    page = f"http://127.0.0.1:{free_port()}"
    store = ["--backend-store-uri", "sqlite:///mlruns/mlflow.db"]
    # MLflow reads no file of settings: whoever starts it has to say so.
    terminal.start("env", "DO_NOT_TRACK=true", "mlflow", "ui", *store, "--port", page.rpartition(":")[2])
    terminal.start("prefect", "server", "start")
    api = f"http://127.0.0.1:{terminal.site.port}/api"
    assert wait_for(lambda: answers(f"{api}/health"), 120), "the Prefect server did not come up"
    terminal.run("prefect", "work-pool", "create", "gpu", "--type", "process", "--overwrite")
    terminal.run("prefect", "--no-prompt", "deploy", "--all")
    terminal.start("prefect", "worker", "start", "--pool", "gpu")
    assert wait_for(lambda: answers(f"{page}/health"), 120), "MLflow's page did not come up"
    return page


def told(row: dict[str, Any]) -> str:
    """What a process did, and the calls that led there."""
    calls = "\n".join(f"    {call}" for call in row["stack"])
    return f"{row['event']} {row['host']}, by process {row['pid']}: {' '.join(row['command'])}\n{calls}"
