"""Several runs that differ in their seed: mean, spread, and an interval for the mean over seeds and images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from csr_core.errors import InputError
from csr_core.evaluation.counts import Items, read_counts
from csr_core.evaluation.resampling import LEVEL, estimate
from csr_core.evaluation.statistics import image_table, names, paired_table
from csr_core.layout import Layout


@dataclass(frozen=True)
class OverSeeds:
    """A figure, or a difference, over several seeds; `spread` is the standard deviation between them."""

    mean: float
    spread: float
    low: float
    high: float
    seeds: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def over_seeds(tables: Sequence[Float[np.ndarray, "images columns"]]) -> OverSeeds:
    """The mean over seeds with a hierarchical 95 % interval: other seeds, and other images.

    `tables`: one a seed, rows the same images (of zeros where a seed has none), columns as in `resampling`.

    Two levels vary: the images, which all seeds share, and the seeds. The variance of the mean is that of the images
    with the seeds as they are (linearised, clustered) plus that between the seeds by their number; the quantile is
    Student's with Satterthwaite's degrees of freedom (1946). Resampling the seeds, and images within, was tried: three
    seeds resampled look too much alike, and the interval holds the truth far too rarely
    (docs/decisions/2026-11-25-intervals.md). With one seed it speaks of that one alone, and the spread is 0.

    Raises:
        InputError: no table, or tables of different images.
    """
    from scipy.stats import t

    if not tables or len({len(table) for table in tables}) > 1:
        raise InputError(
            f"expected one table a seed over the same images, got {[len(table) for table in tables]} rows: measure all "
            "runs on the same splits"
        )
    found = [estimate(table, resamples=1) for table in tables]
    values = np.array([one.value for one in found])
    images, seeds = len(tables[0]), len(values)
    influence = np.mean([one.influence for one in found], axis=0)
    of_images = float(np.sum(influence**2)) * images / max(images - 1, 1)
    spread = float(np.std(values, ddof=1)) if seeds > 1 else 0.0
    of_seeds = spread**2 / seeds
    variance, mean = of_images + of_seeds, float(values.mean())
    if variance <= 0:
        return OverSeeds(mean, spread, mean, mean, seeds)
    freedom = variance**2 / (of_images**2 / max(images - 1, 1) + of_seeds**2 / max(seeds - 1, 1))
    half = float(t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(variance))
    return OverSeeds(mean, spread, mean - half, mean + half, seeds)


def summarise(runs: Sequence[Items], bases: Sequence[Items] | None = None) -> dict[str, dict[str, OverSeeds]]:
    """{split: {figure: over the seeds}} of what several runs counted; with `bases`, of the differences to them.

    Figures that a run lacks are left out.
    """
    found: dict[str, dict[str, OverSeeds]] = {}
    for split in runs[0]:
        own = [run.get(split, []) for run in runs]
        images = sorted({item.image for items in own for item in items}, key=str)
        for name in names(own[0]):
            if bases is None:
                tables = [image_table(items, name, images) for items in own]
            else:
                sides = zip(own, [base.get(split, []) for base in bases], strict=True)
                tables = [paired_table(items, base, name, images) for items, base in sides]
            if all(np.any(table[:, 1::2]) for table in tables):
                one = over_seeds(tables)
                if bases is None and all(np.all((t[:, 0] >= 0) & (t[:, 0] <= t[:, 1])) for t in tables):
                    one = replace(one, low=max(one.low, 0.0), high=min(one.high, 1.0))  # a share
                found.setdefault(split, {})[name] = one
    return found


def seeds_report(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """One entry an iteration that all runs have (0: the base): {iteration, values, differences}.

    `folders`: of whole runs, or answers folders, which are then one model each (entry 0, without differences).

    Raises:
        InputError: a folder is neither, or its answers have no counts.
    """
    if not folders:
        raise InputError("expected the folders of several runs, got none")
    layouts = [Layout(folder) for folder in folders]
    if not any(layout.answers(0).is_dir() for layout in layouts):
        return [{"iteration": 0, "values": _as_dicts(summarise([read_counts(folder) for folder in folders]))}]
    bases = [read_counts(layout.answers(0)) for layout in layouts]
    report: list[dict[str, Any]] = [{"iteration": 0, "values": _as_dicts(summarise(bases))}]
    while all(layout.answers(len(report)).is_dir() for layout in layouts):
        runs = [read_counts(layout.answers(len(report))) for layout in layouts]
        values, differences = _as_dicts(summarise(runs)), _as_dicts(summarise(runs, bases))
        report.append({"iteration": len(report), "values": values, "differences": differences})
    return report


def _as_dicts(found: Mapping[str, Mapping[str, OverSeeds]]) -> dict[str, dict[str, dict[str, float]]]:
    return {split: {name: one.as_dict() for name, one in figures.items()} for split, figures in found.items()}
