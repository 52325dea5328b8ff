"""Ends the MLflow runs of a process that was killed, and its temporary Prefect server.

A killed process has no time to do so itself. This is a small one in a session of its own. It reads a pipe whose other
end the watched process holds: first what to watch, a JSON line (not the command line, where an address with a password
would show), then nothing until that process says `done` or is gone. Only then, and only where it was not done, is
MLflow imported.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

DONE = b"done\n"


@contextmanager
def watched(uri: str, experiment_id: str, run_id: str) -> Iterator[None]:
    """Have the run ended as KILLED should this process vanish within the block; nothing remains after the block."""
    watch = {"uri": uri, "experiment_id": experiment_id, "run_id": run_id, "servers": _temporary_servers()}
    order = json.dumps(watch).encode() + b"\n"
    watchdog = subprocess.Popen(
        [sys.executable, "-m", "tasks.watchdog"],
        stdin=subprocess.PIPE,
        # Whoever reads this process's output must not wait for the watchdog's.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    pipe = watchdog.stdin
    assert pipe is not None
    with contextlib.suppress(BrokenPipeError):
        pipe.write(order)
        pipe.flush()
    try:
        yield
    finally:
        with contextlib.suppress(BrokenPipeError):
            pipe.write(DONE)
            pipe.flush()
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
        watchdog.wait()


def _temporary_servers() -> list[tuple[int, float]]:
    """(number, beginning) of the Prefect server that came up with this process's flow, where there is one."""
    import psutil

    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            if any("prefect.server" in word for word in process.cmdline()):
                found.append((process.pid, process.create_time()))
    return found


def _end_servers(servers: list[tuple[int, float]]) -> None:
    import psutil

    for number, created in servers:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(number)
            if process.create_time() == created:
                process.kill()


def main() -> None:
    """Wait for the other end of the pipe; end runs and servers where it went without a word."""
    order = sys.stdin.buffer.readline()
    # A line, not all there is: a forked child of the watched process could hold the pipe open for longer.
    if not order or sys.stdin.buffer.readline() == DONE:
        return
    watch = json.loads(order)
    _end_servers(watch["servers"])
    import mlflow

    from tasks.store import end_runs

    mlflow.set_tracking_uri(watch["uri"])
    end_runs(mlflow.MlflowClient(watch["uri"]), watch["experiment_id"], watch["run_id"], "KILLED")


if __name__ == "__main__":
    main()
