"""What surrounds the stages of a flow: the folder is its own, its runner is open, and all it makes is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from csr_core.errors import CsrError
from csr_core.loop import ITERATION
from csr_core.run_settings import keep_settings
from tasks import process
from tasks.run import Run, exclusive
from tasks.runners import task_runner
from tasks.tracking import Track, tracked
from tasks.versioning import Versioning


@dataclass(frozen=True)
class Session:
    """Where the stages of this process's flow are recorded."""

    track: Track
    versions: Versioning


_session: Session | None = None
_ready = False


@contextmanager
def session(run: Run, iterations: int | None = None) -> Iterator[Session]:
    """Work in the run's folder alone, with its task runner, recorded by MLflow and DVC; its settings are left there.

    `iterations`: how many were asked for, where not the number in the settings.
    However it ends, no process of a stage outlives it.
    """
    global _session
    settings = run.settings
    with exclusive(run.layout), tracked(run) as track, task_runner(settings.run):
        process.begin()
        kept = settings.model_copy(update={"iterations": iterations or settings.iterations})
        keep_settings(kept, run.layout.root, run.folder)
        get_ready(run)
        _session = Session(track, Versioning(run))
        try:
            yield _session
        except BaseException:
            process.end_all()  # before the runner is closed, which waits for its tasks
            raise
        finally:
            _session = None


def get_ready(run: Run, iterations: int | None = None) -> None:
    """Let processes for stages import what they need, where there is something to do for them; once a process."""
    global _ready
    if _ready:
        return
    _ready = True
    todo = [("prepare", 0), ("evaluate", 0)]
    todo += [(name, k) for k in range(1, (iterations or run.settings.iterations) + 1) for name in ITERATION]
    try:
        done = all(run.result(run.call(name, k)) for name, k in todo)
    except CsrError:  # what a stage reads is not made yet
        done = False
    if not done:
        process.warm_up()


def current() -> Session | None:
    """The session of this process, where there is one."""
    return _session


@contextmanager
def recorded(name: str, iteration: int, run: Run) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Record a stage: yields what is to be called with what it made."""
    now = _session
    if now is None:  # a stage called outside a session: nothing is recorded
        yield lambda made: None
        return
    with now.track.stage(name, iteration) as child:
        yield lambda made: child.finished(made, now.versions.record(name, iteration, made))
