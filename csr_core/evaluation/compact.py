"""The main figures of a metrics file: few enough for a table with a row for each experiment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BENCHMARKS = ("accuracy", "perception", "cognition", "relative_score", "score", "unparsed")
MAIN = ("chair_i", "recall", "pope_accuracy", *BENCHMARKS)

Compact = dict[str, dict[str, dict[str, float]]]


def compact(metrics: Mapping[str, Mapping[str, Mapping[str, Any]]], iteration: int) -> Compact:
    """{"iter_K": {split: {name: value}}} of the MAIN figures in `metrics`, which is {split: {name: {value, low, ...}}}.

    `dvc exp show` heads a column with the name alone only where no other file has it: hence the iteration in it.
    Values have four decimals; figures that were not measured, or have no value, are left out.
    """
    values = {
        split: {name: round(figures[name]["value"], 4) for name in MAIN if _has_value(figures, name)}
        for split, figures in metrics.items()
    }
    return {f"iter_{iteration}": values}


def _has_value(figures: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    return name in figures and figures[name]["value"] is not None
