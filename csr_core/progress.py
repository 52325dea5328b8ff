"""Progress of long work: a bar in a terminal, a plain line now and then in a log."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

LOG_EVERY_SECONDS = 10.0
# A file that whoever started this process reads the progress from: {name, done, total, unit, note}.
PROGRESS_FILE = "CSR_PROGRESS_FILE"
FILE_EVERY_SECONDS = 1.0


class Progress:
    """Counts items and shows how many, how fast and how long still; `with Progress("score", 300, "prompts") as bar`."""

    def __init__(self, name: str, total: int, unit: str = "items") -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0
        self._start = self._last = time.monotonic()
        self._written = 0.0
        self._bar = tqdm(total=total, desc=name, unit=f" {unit}") if sys.stderr.isatty() else None

    def advance(self, items: int = 1, note: str = "") -> None:
        """Count `items` more as done; `note` is a short text such as the running metric."""
        self.done += items
        self._write(note)
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note)
            self._bar.update(items)
        elif time.monotonic() - self._last >= LOG_EVERY_SECONDS or self.done >= self.total:
            self._last = time.monotonic()
            self._line(note)

    def _write(self, note: str) -> None:
        now, file = time.monotonic(), os.environ.get(PROGRESS_FILE)
        if not file or (now - self._written < FILE_EVERY_SECONDS and self.done < self.total):
            return
        self._written = now
        state = {"name": self.name, "done": self.done, "total": self.total, "unit": self.unit, "note": note}
        beside = Path(f"{file}.{os.getpid()}.tmp")
        beside.write_text(json.dumps(state), "utf-8")
        os.replace(beside, file)

    def _line(self, note: str) -> None:
        spent = time.monotonic() - self._start
        rate = self.done / spent if spent > 0 else 0.0
        left = (self.total - self.done) / rate if rate > 0 else float("inf")
        text = f"{self.name}: {self.done}/{self.total} {self.unit}, {rate:.1f}/s, {left:.0f} s left"
        print(f"{text}{f', {note}' if note else ''}", file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
