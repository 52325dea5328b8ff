"""How far work is, in words: one line that is drawn anew in a terminal, a plain line now and then in a log."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import TracebackType

LOG_SECONDS = 10.0  # between two lines of a log
SETUP_SECONDS = 4.0  # after which a log is told what a start takes so long with
DRAW_SECONDS = 0.25
QUIET_SECONDS = 0.5  # what takes less draws no bar
WINDOW_SECONDS = 60.0  # that the rate is a mean of
TRUST_SECONDS = 2.0  # before which a rate says nothing of the time left: first batches are slow
BAR = 12  # characters


@dataclass
class State:
    """What is done, of it `before` by an earlier run. doing: what else is done, such as a model that is loaded.

    figures: running metrics, {a text to be formatted with `value` and `n`: (sum, n)}; value is sum / n.
    """

    done: int = 0
    total: int = 0
    before: int = 0
    unit: str = "items"
    doing: str = ""
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)


def merged(states: Iterable[State]) -> State:
    """What several processes have done of the same work, put together."""
    out = State()
    for one in states:
        out.done, out.total, out.before = out.done + one.done, out.total + one.total, out.before + one.before
        out.doing = out.doing or one.doing
        out.unit = one.unit if one.total else out.unit
        for text, (value, n) in list(one.figures.items()):
            before = out.figures.get(text, (0.0, 0.0))
            out.figures[text] = (before[0] + value, before[1] + n)
    return out


def clock(seconds: float) -> str:
    """E.g. 0:22, or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def pace(rate: float) -> str:
    """Items a second, or where they are slow seconds for each; empty where nothing was done."""
    if rate <= 0:
        return ""
    return f"{1 / rate:.0f} s each" if rate < 0.1 else f"{rate:.1f}/s" if rate < 100 else f"{rate:,.0f}/s"


def figures_text(state: State) -> list[str]:
    return [text.format(value=value / n, n=n) for text, (value, n) in list(state.figures.items()) if n]


class Display:
    """Shows what `read()` says is done, from a thread of its own, so that long steps are seen to go on.

    Args:
        title: of the work, such as `generate 1/3`.
        keep: leave the last line; else whoever shows this says the end in words (`told`).
    """

    def __init__(self, title: str, read: Callable[[], State], keep: bool = False) -> None:
        self.title, self._read, self._keep = title, read, keep
        self._total, self._before, self._unit = 0, 0, ""
        self._begun = self._counting = time.monotonic()
        self._seen: deque[tuple[float, int]] = deque()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._drawn = False
        self._doing = ("", 0.0)  # what, and since when
        try:
            self._terminal = sys.stderr.isatty()
        except (AttributeError, ValueError):  # none, or closed
            self._terminal = False

    def expect(self, total: int, unit: str, before: int = 0) -> None:
        """The size of the whole, where each process only knows its part; `before` of it was done earlier."""
        self._total, self._unit, self._before = total, unit, before

    def state(self) -> State:
        """What is done of the whole, all processes and earlier runs together."""
        now = self._read()
        if not now.total and not now.doing:  # nothing is counted yet: processes start, libraries are imported
            now.doing = "starting"
        now.total, now.unit = self._total or now.total, self._unit or now.unit
        now.done, now.before = now.done + self._before, now.before + self._before
        return now

    def line(self, state: State | None = None, bar: bool = False) -> str:
        """E.g. generate 1/3: 312/500 prompts, 8.4/s, 0:22 left, mean log-likelihood -0.31"""
        state = state or self.state()
        words = []
        if counted := bool(state.total and (state.done or not state.doing)):
            words.append(f"{state.done:,}/{state.total:,} {state.unit}")
            if state.done < state.total and (rate := self._rate(state)):
                words.append(pace(rate))
                if time.monotonic() - self._seen[0][0] >= TRUST_SECONDS:
                    words.append(f"{clock((state.total - state.done) / rate)} left")
        if state.doing:
            if state.doing != self._doing[0]:
                self._doing = (state.doing, time.monotonic() if self._doing[0] else self._begun)
            spent = time.monotonic() - self._doing[1]
            words.append(state.doing + (f", {clock(spent)}" if spent >= SETUP_SECONDS / 2 else ""))
        words += figures_text(state)
        if not bar:
            return f"{self.title}: {', '.join(words)}"
        drawn = [self._bar(state)] if counted else []
        return "  ".join([self.title, *drawn, *words])

    def told(self) -> str:
        """What there is to say at the end, e.g. 500 prompts, 59.5/s, mean log-likelihood -0.31; may be empty."""
        state = self.state()
        if not state.total:
            return ""
        spent = time.monotonic() - self._counting
        words = [f"{state.done:,} {state.unit}", pace((state.done - state.before) / spent if spent > 0 else 0)]
        return ", ".join(word for word in (*words, *figures_text(state)) if word)

    def __enter__(self) -> Display:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self._keep:
            state, spent = self.state(), clock(time.monotonic() - self._begun)
            self._put(f"{self.title}: {state.done:,}/{state.total:,} {state.unit} in {spent}\n")

    def close(self) -> None:
        """Draw no more, and leave the line empty for what is printed next."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._drawn:
            self._drawn = False
            self._put("\r\x1b[K")

    def _run(self) -> None:
        told = self._begun
        while not self._end.wait(DRAW_SECONDS):
            now, state = time.monotonic(), self.state()
            self._see(now, state)
            if self._terminal:
                if now - self._begun >= QUIET_SECONDS:
                    self._drawn = True
                    self._put(f"\r{self._fitting(state, shutil.get_terminal_size().columns - 1)}\x1b[K")
            elif now - told >= (LOG_SECONDS if state.done or told > self._begun else SETUP_SECONDS):
                told = now
                self._put(self.line(state) + "\n")

    def _fitting(self, state: State, columns: int) -> str:
        """The line with its bar; in a narrow terminal the words count more."""
        line = self.line(state, bar=True)
        if len(line) > columns and state.total:
            line = line.replace(f"{self._bar(state)}  ", "", 1)
        return line[:columns]

    def _see(self, now: float, state: State) -> None:
        """Remember how much was done when; what was before the first item, such as loading, is no part of the rate."""
        if state.done <= state.before:
            self._seen.clear()
            if state.doing:
                self._counting = now
        self._seen.append((now, state.done - state.before))
        while now - self._seen[0][0] > WINDOW_SECONDS and len(self._seen) > 2:
            self._seen.popleft()

    def _rate(self, state: State) -> float:
        if not self._seen:
            return 0.0
        since, done = self._seen[0]
        spent, made = time.monotonic() - since, state.done - state.before - done
        return made / spent if spent > 0 and made > 0 else 0.0

    def _bar(self, state: State) -> str:
        full = min(BAR, BAR * state.done // state.total)
        plain = "utf" not in str(getattr(sys.stderr, "encoding", "")).lower()
        return ("#" * full + "." * (BAR - full)) if plain else ("▇" * full + "░" * (BAR - full))

    def _put(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or a disk that is full
            sys.stderr.write(text)
            sys.stderr.flush()
