"""Counting what agrees and what does not."""

from collections import Counter
from typing import Any

import torch

TOLERANCE = 1e-4
SHOWN = 3  # mismatches of a kind that are written out


def difference(got: Any, want: Any, tolerance: float = TOLERANCE) -> str | None:
    """Where two values differ, or None; numbers with a fraction may differ by `tolerance`, all else not at all."""
    if isinstance(want, torch.Tensor):
        if not isinstance(got, torch.Tensor) or got.shape != want.shape:
            return f"shape {getattr(got, 'shape', None)}, expected {want.shape}"
        largest = float((got.double() - want.double()).abs().max())
        allowed = tolerance if want.is_floating_point() else 0.0
        return f"differs by up to {largest:.3g}" if not largest <= allowed else None
    if isinstance(want, float) and isinstance(got, (int, float)) and not isinstance(got, bool):
        return None if abs(got - want) <= tolerance else f"{got}, expected {want}"
    if isinstance(want, (list, tuple)) and isinstance(got, (list, tuple)) and len(got) == len(want):
        found = ((index, difference(a, b, tolerance)) for index, (a, b) in enumerate(zip(got, want, strict=True)))
        return next((f"[{index}] {text}" for index, text in found if text), None)
    if isinstance(want, dict) and isinstance(got, dict) and got.keys() == want.keys():
        found = ((name, difference(got[name], want[name], tolerance)) for name in want)
        return next((f"{name}: {text}" for name, text in found if text), None)
    return None if got == want and isinstance(got, bool) == isinstance(want, bool) else f"{got!r}, expected {want!r}"


class Tally:
    """Cases and mismatches by kind."""

    def __init__(self) -> None:
        self.by_kind: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.shown: list[str] = []

    @property
    def cases(self) -> int:
        return self.by_kind.total()

    @property
    def mismatches(self) -> int:
        return self.wrong.total()

    def check(self, kind: str, case: str, got: Any, want: Any, tolerance: float = TOLERANCE) -> None:
        """Count one case of `kind`."""
        self.by_kind[kind] += 1
        found = difference(got, want, tolerance)
        if found is not None:
            self.wrong[kind] += 1
            if self.wrong[kind] <= SHOWN:
                self.shown.append(f"{kind}, {case}: {found}")

    def table(self) -> str:
        lines = [f"{'kind':<28}{'cases':>8}{'mismatches':>12}"]
        lines += [f"{kind:<28}{count:>8}{self.wrong[kind]:>12}" for kind, count in self.by_kind.items()]
        lines.append(f"{'all':<28}{self.cases:>8}{self.mismatches:>12}")
        return "\n".join([*self.shown, *lines])
