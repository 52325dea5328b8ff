"""A checkout of the project with small settings, a Prefect server and a worker, as a user would have them."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.e2e.conftest import SMALL

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def wait_for(condition: Callable[[], Any], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Site:
    """A folder with the files that git tracks, the settings SMALL in params.yaml, and its own git history."""

    def __init__(self, folder: Path, port: int, *changes: str) -> None:
        self.folder, self.port = folder, port
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PWD": str(folder),  # what prefect.yaml takes as the working folder
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "CSR_TEST_MARK": str(folder),
            "OMP_NUM_THREADS": "1",
        }
        self._servers: list[subprocess.Popen[bytes]] = []
        copy_project(folder)
        self.set(*SMALL, *changes)
        self.run(sys.executable, "-m", "csr_core.dvcfile")
        for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
            self.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words)

    def set(self, *changes: str) -> None:
        """Write settings into params.yaml."""
        path = self.folder / "params.yaml"
        tree = yaml.safe_load(path.read_text())
        for change in changes:
            key, _, value = change.partition("=")
            *sections, name = key.split(".")
            place = tree
            for section in sections:
                place = place[section]
            place[name] = yaml.safe_load(value)
        path.write_text(yaml.safe_dump(tree, sort_keys=False))

    def run(self, *words: str, check: bool = True, folder: Path | None = None) -> str:
        """Run a command to its end; returns what it printed."""
        done = subprocess.run(
            words, cwd=folder or self.folder, env=self.environment, text=True, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def start(self, *words: str, folder: Path | None = None) -> "subprocess.Popen[bytes]":
        log = (self.folder.parent / f"{words[0]}-{words[1]}-{len(self._servers)}.log").open("wb")
        process = subprocess.Popen(
            words, cwd=folder or self.folder, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
        self._servers.append(process)
        return process

    def serve(self) -> None:
        """The README's commands: server, work pool, deployments, worker."""
        self.start("prefect", "server", "start")
        assert wait_for(self._answers, 120), "the Prefect server did not come up"
        self.run("prefect", "work-pool", "create", "gpu", "--type", "process", "--overwrite")
        self.run("prefect", "--no-prompt", "deploy", "--all")
        self.worker()

    def worker(self) -> "subprocess.Popen[bytes]":
        return self.start("prefect", "worker", "start", "--pool", "gpu")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/health"):
            return True
        return False

    def api(self, path: str, body: Any = None) -> Any:
        """Ask the Prefect server."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{path}", data, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def flow_runs(self) -> list[dict[str, Any]]:
        """Newest first."""
        return list(self.api("flow_runs/filter", {"sort": "EXPECTED_START_TIME_DESC", "limit": 20}))

    def task_states(self, flow_run: str) -> dict[str, str]:
        """Name of each task run of a flow run -> name of its state."""
        found = self.api("task_runs/filter", {"flow_runs": {"id": {"any_": [flow_run]}}, "limit": 200})
        return {run["name"]: run["state"]["name"] for run in found}

    def deployment_run(self, *words: str) -> str:
        """Start a run of csr/iterate; returns the flow run's id."""
        before = {run["id"] for run in self.flow_runs()}
        self.run("prefect", "deployment", "run", "csr/iterate", *words)
        return next(run["id"] for run in self.flow_runs() if run["id"] not in before)

    def state(self, flow_run: str) -> str:
        return str(self.api(f"flow_runs/{flow_run}")["state"]["type"])

    def stop(self) -> None:
        """Stop what was started, the worker before the server; kill what is left of it."""
        for process in reversed(self._servers):
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(15)
        for left in self.processes():
            with contextlib.suppress(psutil.Error):
                left.kill()

    def processes(self, *needles: str) -> list[psutil.Process]:
        """Processes started here, directly or not, whose command line or environment holds all `needles`."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                text = " ".join([*process.cmdline(), *(f"{k}={v}" for k, v in environment.items())])
                mine = environment.get("CSR_TEST_MARK") == str(self.folder)
                if mine and process.status() != psutil.STATUS_ZOMBIE and all(needle in text for needle in needles):
                    found.append(process)
        return found

    def stages(self) -> list[psutil.Process]:
        """Processes of stages, and what they are forked from."""
        return [p for p in self.processes() if any(word in command(p) for word in STAGE_WORDS)]


STAGE_WORDS = ("forkserver", "csr_core.stages", "tasks.watchdog", "resource_tracker")


def command(process: psutil.Process) -> str:
    """The command line; nothing of a process that has just ended."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def copy_project(folder: Path) -> None:
    """The files that git tracks or would track, as they are in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT, capture_output=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (PROJECT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name)


def kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(signal.SIGKILL)
