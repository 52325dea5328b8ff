"""Progress of long work: stages count what they do, alone or in several processes, and one line shows it.

A process that someone else watches counts into a file, that of CSR_PROGRESS_FILE; else it shows its progress itself.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from csr_core.progress_line import Display, State, merged

# A file that whoever started this process reads the progress from: a State as JSON.
PROGRESS_FILE = "CSR_PROGRESS_FILE"
FILE_EVERY_SECONDS = 1.0


class Tally:
    """What this process has done of a stage; written to `file` now and then, where there is one."""

    def __init__(self, file: Path | None = None, folder: Path | None = None) -> None:
        self.state, self.file, self.folder = State(), file, folder
        self._written = 0.0

    def changed(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if self.file is None or not (at_once or now - self._written >= FILE_EVERY_SECONDS):
            return
        self._written = now
        with suppress(OSError):  # a full disk does not end the work
            beside = self.file.with_name(f"{self.file.name}.{os.getpid()}.tmp")
            self.file.parent.mkdir(parents=True, exist_ok=True)
            beside.write_text(json.dumps(asdict(self.state)), "utf-8")
            os.replace(beside, self.file)


_tally: Tally | None = None  # of the stage that this process works on


@contextmanager
def counting(file: Path | None, folder: Path | None = None) -> Iterator[Tally]:
    """Count what Progress counts inside into `file`, for another to show. folder: of the files of further processes."""
    global _tally
    before, tally = _tally, Tally(file, folder)
    _tally = tally
    try:
        yield tally
    finally:
        tally.changed(at_once=True)
        _tally = before


@contextmanager
def shown(title: str, folder: Path) -> Iterator[Display | None]:
    """Show what is counted inside, here and by processes whose files lie in `folder`, as one line.

    Yields None where another shows it: then it is counted for that.
    """
    file = os.environ.get(PROGRESS_FILE)
    if _tally is not None:
        yield None
    elif file:
        with counting(Path(file), Path(file).parent):
            yield None
    else:
        forget(folder)
        with counting(None, folder) as tally, Display(title, lambda: merged([tally.state, *read_all(folder)])) as line:
            yield line
        forget(folder)


def file_of_child(name: str) -> Path | None:
    """Where a process that this one starts is to count, so that it is shown as a part of the same; None: nowhere."""
    if _tally is None or _tally.folder is None:
        return None
    return (_tally.folder / f"{_tally.file.stem + '-' if _tally.file else ''}{name}.json").resolve()


def read_all(folder: Path) -> list[State]:
    """What the processes that count into files of `folder` have done so far."""
    found = []
    for file in sorted(folder.glob("*.json")):
        with suppress(OSError, ValueError, TypeError):
            state = State(**json.loads(file.read_text("utf-8")))
            state.figures = {text: (value, n) for text, (value, n) in state.figures.items()}
            found.append(state)
    return found


def forget(folder: Path) -> None:
    """Remove the files of processes that are gone."""
    for file in [*folder.glob("*.json"), *folder.glob("*.tmp")]:
        with suppress(OSError):
            file.unlink(missing_ok=True)


@contextmanager
def doing(text: str) -> Iterator[None]:
    """Say what is done while nothing is counted, such as loading a model."""
    if (tally := _tally) is None:
        yield
        return
    before, tally.state.doing = tally.state.doing, text
    tally.changed(at_once=True)
    try:
        yield
    finally:
        tally.state.doing = before
        tally.changed(at_once=True)


def show_figure(text: str, value: float, n: float = 1.0) -> None:
    """A running metric, e.g. ("loss {value:.3f}", 0.61); the last one stands."""
    if _tally is not None:
        _tally.state.figures[text] = (value * n, n)


def add_to_figure(text: str, total: float, n: float) -> None:
    """A running metric that is a mean, e.g. ("CHAIR_i {value:.1%} of {n:.0f}", 3, 17): 3 more of 17 more."""
    if _tally is not None:
        before = _tally.state.figures.get(text, (0.0, 0.0))
        _tally.state.figures[text] = (before[0] + total, before[1] + n)


class Progress:
    """Counts items; `with Progress("score", 300, "prompts") as bar`. Within a stage it is a part of the stage's line.

    counts: the stage's items are these; else they are something it does besides.
    """

    def __init__(self, name: str, total: int, unit: str = "items", counts: bool = True) -> None:
        self.name, self.total, self.unit, self.done = name, total, unit, 0
        self._counts = counts or _tally is None
        self._tally = _tally or Tally()
        self._display = None if _tally else Display(name, lambda: merged([self._tally.state]), keep=True)
        if self._counts:
            self._tally.state.total += total
            self._tally.state.unit = unit

    def advance(self, items: int = 1, note: str = "", earlier: bool = False) -> None:
        """Count `items` more as done, by an `earlier` run or now; `note` is a short text on the last one."""
        self.done += items
        state = self._tally.state
        if self._counts:
            state.done += items
            state.before += items if earlier else 0
            state.doing = note
        else:
            state.doing = f"{self.name} {self.done:,}/{self.total:,}"
        self._tally.changed()

    def __enter__(self) -> Progress:
        if self._display is not None:
            self._display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tally.state.doing = ""
        self._tally.changed(at_once=True)
        if self._display is not None:
            self._display.__exit__(kind, error, trace)
