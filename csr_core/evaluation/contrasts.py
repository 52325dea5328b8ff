"""What several figures tell together: the relative gain over a set of benchmarks, the gap to a shifted twin."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np

from csr_core.errors import InputError
from csr_core.evaluation.hypotheses import LOWER_IS_BETTER, is_descriptive
from csr_core.evaluation.resampling import LEVEL, Estimate, estimate, minus, symmetric_bounds
from csr_core.evaluation.statistics import Item, image_table, names, paired_table, ratio

# What full marks are, of figures that are no shares; the first pattern that fits counts.
FULL_MARKS = {"perception": 2000.0, "cognition": 800.0}  # MME's

Counted = Mapping[str, Sequence[Item]]  # split or benchmark -> items
Figure = tuple[str, str]  # split or benchmark, name


@dataclass(frozen=True)
class Contrast:
    """A number made of several figures, with its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def relative_gain(
    model: Counted, base: Counted, figures: Sequence[Figure], resamples: int = 2000, seed: int = 0
) -> Contrast:
    """How much better `model` is than `base` over `figures`: mean score of one / mean score of the other - 1.

    Each figure becomes a score from 0 to 1 of which more is better: a share as it is, CHAIR as 1 - CHAIR, points
    divided by full marks; the scores are averaged with equal weight. The paper's abstract (arXiv 2405.14622) says of
    its 7.62 % only that it is the improvement over ten benchmarks and tasks; we found no account of how they were
    brought together, so the rule is ours. The other usual rule, the mean of the relative changes, would let a small
    figure decide: CHAIR_i from 15 to 6 alone is 60 %.

    The interval is a percentile bootstrap: images are resampled within each benchmark, the same for both models and
    for all figures of a benchmark. A mean of figures is close enough to normal for it (tests/evaluation/test_coverage).

    Raises:
        InputError: no figures, one that a model lacks or whose full marks are not known, or a base that scores 0.
    """
    if not figures:
        raise InputError("no figure is left for the relative gain: name some that both models have, as SPLIT/FIGURE")
    ours, theirs = (_mean_score(one, other, figures, resamples, seed) for one, other in ((model, base), (base, model)))
    if not theirs[0] or not np.all(theirs[1]):
        raise InputError(
            "the base's mean score is 0, or nearly: nothing can be said relative to it; name other figures with --gain"
        )
    value, values = ours[0] / theirs[0] - 1, ours[1] / theirs[1] - 1
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Contrast(float(value), float(low), float(high))


def gain_figures(model: Counted, leave_out: Sequence[str] = ()) -> list[Figure]:
    """The figures that count for the gain by default.

    None that only describes, no split of `leave_out` (shifted twins), none whose full marks are not known.
    """
    return [
        (split, name)
        for split, items in model.items()
        if split not in leave_out
        for name in names(items)
        if not is_descriptive(name) and _is_score(_score(name, float(ratio(*image_table(items, name).T))))
    ]


def gaps(usual: Sequence[Item], shifted: Sequence[Item], resamples: int = 2000, seed: int = 0) -> dict[str, Contrast]:
    """By figure: its value on the shifted twin minus that on the usual split, of one model.

    The pictures differ, so nothing is paired: both are resampled on their own.
    """
    return {
        name: _contrast(minus(*(estimate(image_table(items, name), resamples, seed) for items in (shifted, usual))))
        for name in names(usual)
        if name in names(shifted)
    }


def gap_changes(
    usual: tuple[Sequence[Item], Sequence[Item]],
    shifted: tuple[Sequence[Item], Sequence[Item]],
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Contrast]:
    """By figure: the gap of a model minus the gap of the base; `usual` and `shifted` are each (model, base).

    The two models are paired on each split's own pictures: the change on the shifted split minus that on the usual one.
    """
    found = {}
    for name in names(usual[0]):
        here, there = paired_table(*usual, name), paired_table(*shifted, name)
        if len(here) and len(there):
            found[name] = _contrast(minus(estimate(there, resamples, seed), estimate(here, resamples, seed)))
    return found


def _contrast(found: Estimate) -> Contrast:
    return Contrast(found.value, *symmetric_bounds(found))


def _mean_score(
    model: Counted, other: Counted, figures: Sequence[Figure], resamples: int, seed: int
) -> tuple[float, np.ndarray]:
    """Mean score of `model`, and of each resample, on the items that both have."""
    scores, resampled = [], []
    for split, name in figures:
        mine, theirs = model.get(split, ()), other.get(split, ())
        # All images of the benchmark, so that its figures and both models get the same resamples.
        images = sorted({item.image for item in (*mine, *theirs)}, key=str)
        table = paired_table(mine, theirs, name, images)[:, :2]
        if not table[:, 1].any():
            raise InputError(f"{split}/{name} is not among the figures that both models have: `csr table` lists them")
        found = estimate(table, resamples, seed + zlib.crc32(split.encode()))
        scores.append(_score(name, found.value))
        if not _is_score(scores[-1]):
            raise InputError(
                f"{split}/{name} is {found.value:.4g}, neither a share nor among those whose full marks are known "
                f"({', '.join(FULL_MARKS)}): leave it out of the relative gain"
            )
        resampled.append(_score(name, found.values))
    return float(np.mean(scores)), np.mean(resampled, axis=0)


def _is_score(score: float) -> bool:
    return 0 <= score <= 1


def _score(name: str, value: Any) -> Any:
    full = next((marks for pattern, marks in FULL_MARKS.items() if fnmatch(name, pattern)), 1.0)
    return 1 - value if name in LOWER_IS_BETTER else value / full
