"""Stage `guard`: what the guards say of an iteration, and whether it is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csr_core.config import Settings
from csr_core.guards import read_evidence, readings
from csr_core.layout import Layout
from csr_core.records import read_json, write_json


def guard(settings: Settings, iteration: int, layout: Layout, out: Path) -> dict[str, Any]:
    """Write `guards.json`, a list of readings, and `verdict.json`, {stopped}, to `out`; returns the summary.

    The split that guards look at is `test`, or the first one.

    Raises:
        InputError: the iteration was not measured.
    """
    split = main_split(settings)
    found = readings(read_evidence(iteration, layout, split, settings), settings.guards)
    fired = [one for one in found if one.fired]
    stopped_by = [one.guard for one in fired if one.guard in settings.guards.stop_on]
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "guards.json", [one.as_dict() for one in found])
    write_json(out / "verdict.json", {"stopped": bool(stopped_by)})
    return {
        "fired": [{"guard": one.guard, "sentence": one.sentence} for one in fired],
        "stopped_by": stopped_by,
        "not_measured": [one.guard for one in found if one.value is None],
    }


def main_split(settings: Settings) -> str:
    names = list({**settings.evaluate.splits, **settings.evaluate.benchmarks})
    return "test" if "test" in names else names[0]


def stopped(iteration: int, layout: Layout) -> bool:
    """Whether a guard stopped this iteration; the base, and what was not judged, is not stopped."""
    file = layout.verdict(iteration)
    return bool(file.is_file() and read_json(file)["stopped"])


def last_good(iteration: int, layout: Layout) -> int:
    """The newest iteration before `iteration` that was not stopped; 0 is the base."""
    return next((k for k in range(iteration - 1, 0, -1) if not stopped(k, layout)), 0)
