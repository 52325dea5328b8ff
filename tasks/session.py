"""What surrounds the stages of a flow: the folder is its own, its runner is open, and all it makes is recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

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


@contextmanager
def session(run: Run) -> Iterator[Session]:
    """Work in the run's folder alone, with its task runner, recorded by MLflow and DVC.

    However it ends, no process of a stage outlives it.
    """
    global _session
    settings = run.settings
    with exclusive(run.layout), tracked(run) as track, task_runner(settings.run):
        process.warm_up()
        _session = Session(track, Versioning(run))
        try:
            yield _session
        except BaseException:
            process.end_all()  # before the runner is closed, which waits for its tasks
            raise
        finally:
            _session = None


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
        yield lambda made: child.finished(made, now.versions.record(name, iteration))
