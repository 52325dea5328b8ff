"""Processes that outlive the command that starts them: written down, waited for, and ended with all below them."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from csr_core.errors import CsrError
from csr_core.records import read_json, write_json

if TYPE_CHECKING:
    import psutil

# Each to the process itself, and then to all below it.
STOP_SECONDS = 10.0


class ServiceError(CsrError):
    """A local service could not be started or reached."""


@dataclass(frozen=True)
class Service:
    """A process that was started here.

    `created` is when it began (seconds since 1970): a process number is used again, the pair is not.
    """

    pid: int
    created: float
    url: str

    def process(self) -> psutil.Process | None:
        """The process, or None where it has ended, whatever has its number now."""
        import psutil

        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            # The kernel counts from the boot, whose time moves a little when the clock is set.
            if abs(process.create_time() - self.created) < 2 and process.status() != psutil.STATUS_ZOMBIE:
                return process
        return None


class Services:
    """The services started in a folder: `running` by name, `fresh` the names that this object started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._record = folder / "services.json"
        known = (
            {name: Service(**row) for name, row in read_json(self._record).items()} if self._record.is_file() else {}
        )
        self.running = {name: service for name, service in known.items() if service.process()}
        self.fresh: list[str] = []

    def start(self, name: str, command: Sequence[str], url: str, environment: Mapping[str, str]) -> None:
        """Start `command` in a session of its own, its output in a log; `url` is what is told of it."""
        import psutil

        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )
        # Written down at once, so that it can be stopped whatever happens to this command.
        self.running[name] = Service(process.pid, psutil.Process(process.pid).create_time(), url)
        self.fresh.append(name)
        self._write()

    def wait(self, name: str, healthy: Callable[[], bool], seconds: float) -> None:
        """Return once `healthy()`.

        Raises:
            ServiceError: the process ended, or `seconds` went by; with the end of its log.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.running[name].process() is None:
                raise ServiceError(f"{name} ended as it started; the end of its log:\n{self._tail(name)}")
            if healthy():
                return
            time.sleep(0.3)
        raise ServiceError(f"{name} did not answer within {seconds:.0f} s; the end of its log:\n{self._tail(name)}")

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a short command to its end, its output in a log.

        Raises:
            ServiceError: it failed; with the end of its log.
        """
        with self._log(name).open("ab") as log:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, check=False
            )
        if done.returncode != 0:
            raise ServiceError(f"`{' '.join(command)}` failed with exit status {done.returncode}:\n{self._tail(name)}")

    def stop(self, name: str) -> None:
        """End a service and all below it, and forget it."""
        process = self.running[name].process()
        if process is not None:
            end_family(process)
        del self.running[name]
        self._write()

    def _write(self) -> None:
        write_json(self._record, {name: asdict(service) for name, service in self.running.items()})

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _tail(self, name: str) -> str:
        lines = self._log(name).read_text("utf-8", errors="replace").splitlines()
        return "\n".join(["  " + line for line in lines[-15:]] + [f"(all of it: {self._log(name)})"])


@contextlib.contextmanager
def services(folder: Path) -> Iterator[Services]:
    """The services of `folder`, held by one command at a time."""
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        yield Services(folder)


def end_family(process: psutil.Process) -> None:
    """End a process and all below it: first it is asked, then its children are, then all are killed."""
    import psutil

    # Listed before the parent ends, after which its children belong to no one. psutil knows a process by number and
    # beginning, so that it signals none that took over a number.
    children = process.children()
    family = [process, *process.children(recursive=True)]
    _signal([process], psutil.Process.terminate)
    psutil.wait_procs([process], timeout=STOP_SECONDS)
    _signal(children, psutil.Process.terminate)
    _, left = psutil.wait_procs(family, timeout=STOP_SECONDS)
    _signal(left, psutil.Process.kill)
    psutil.wait_procs(family, timeout=STOP_SECONDS)


def _signal(processes: Sequence[psutil.Process], send: Callable[[psutil.Process], None]) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            send(process)
