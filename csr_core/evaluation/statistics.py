"""Figures as ratios of counts: their intervals, and paired comparisons of two models.

Every figure of this package is a ratio of two sums: CHAIR_i = hallucinated mentions / mentions, F1 = 2 TP / (2 TP +
FP + FN), and so on. An *item* (a caption, a question) contributes its part of both sums; items on one picture belong
together, so pictures are resampled and swapped with all their items. The methods and their sources: docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

from csr_core.evaluation.resampling import LEVEL, bounds, detectable, estimate, sign_flip, symmetric_bounds

Counts = dict[str, tuple[float, float]]  # name of the figure -> (numerator, denominator)


@dataclass(frozen=True)
class Item:
    """What one caption or question adds to each figure. `key` finds the same item in another model's answers."""

    key: Hashable
    image: Hashable
    counts: Counts


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; `n` items (captions, questions, ...) went into it."""

    value: float
    low: float
    high: float
    n: int

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """Figure of one model minus that of another on the same items, with its 95 % interval.

    `p`: two-sided, of the paired permutation test (`sign_flip`), not corrected. `detectable`: the smallest true
    difference that this sample would have shown with a power of 80 %; None where the models nowhere differ.
    """

    difference: float
    low: float
    high: float
    p: float
    detectable: float | None

    def as_dict(self) -> dict[str, float | None]:
        return asdict(self)


def ratio(
    numerator: Float[np.ndarray, "*resamples images"],
    denominator: Float[np.ndarray, "*resamples images"],
    axis: int = -1,
) -> Float[np.ndarray, "*resamples"]:
    """sum(numerator) / sum(denominator); 0 where nothing was counted (no mention: no hallucination)."""
    above, below = numerator.sum(axis=axis), denominator.sum(axis=axis)
    shares: np.ndarray = np.divide(above, below, out=np.zeros_like(above, dtype=float), where=below != 0)
    return shares


def interval(items: Sequence[Item], name: str, resamples: int = 2000, seed: int = 0) -> Interval:
    """The figure `name` over `items`, with a studentised bootstrap interval over the images (`bounds`).

    A share's interval stays within 0 and 1. A share of 0 or 1 shows no spread to resample; there the bound is
    Clopper and Pearson's for as many draws as there are images: with no image wrong of n, at most 1 - 0.025^(1/n) are.
    """
    with_name = [item for item in items if name in item.counts]
    table = image_table(with_name, name)
    if not len(table):
        return Interval(0.0, 0.0, 0.0, 0)
    found = estimate(table, resamples, seed)
    low, high = bounds(found)
    low, high = min(low, found.value), max(high, found.value)
    if np.all((table[:, 0] >= 0) & (table[:, 0] <= table[:, 1])):
        low, high = max(low, 0.0), min(high, 1.0)
        if found.error == 0 and len(table) > 1 and table[:, 1].sum() > 0:
            reach = 1 - ((1 - LEVEL) / 2) ** (1 / len(table))
            low, high = (low, reach) if found.value == 0 else (1 - reach, high) if found.value == 1 else (low, high)
    return Interval(found.value, low, high, len(with_name))


def paired_difference(
    items: Sequence[Item], others: Sequence[Item], name: str, resamples: int = 2000, seed: int = 0
) -> Difference | None:
    """`name` over `items` minus `name` over `others`, on the items that both have; the same images on both sides.

    Returns None where they have no item in common.
    """
    table = paired_table(items, others, name)
    if not len(table):
        return None
    found = estimate(table, resamples, seed)
    p = sign_flip(table, seed=seed)
    return Difference(found.value, *symmetric_bounds(found), p, detectable(found.error))


def measure(items: Sequence[Item], resamples: int = 2000, seed: int = 0) -> dict[str, Interval]:
    """Every figure that the items have counts of."""
    return {name: interval(items, name, resamples, seed) for name in names(items)}


def compare(
    items: Sequence[Item], others: Sequence[Item], resamples: int = 2000, seed: int = 0
) -> dict[str, Difference]:
    """The paired difference of every figure that both have."""
    found = {name: paired_difference(items, others, name, resamples, seed) for name in names(items)}
    return {name: difference for name, difference in found.items() if difference is not None}


def names(items: Iterable[Item]) -> list[str]:
    """The figures' names, in the order in which they first occur."""
    return list(dict.fromkeys(name for item in items for name in item.counts))


def image_table(
    items: Sequence[Item], name: str, images: Sequence[Hashable] | None = None
) -> Float[np.ndarray, "images 2"]:
    """Numerator and denominator of `name` by image: of `images` in their order, or of those that have it."""
    sums: dict[Hashable, list[float]] = {image: [0.0, 0.0] for image in images or ()}
    for item in items:
        if name in item.counts:
            total = sums.setdefault(item.image, [0.0, 0.0])
            total[0] += item.counts[name][0]
            total[1] += item.counts[name][1]
    return np.array(list(sums.values()), dtype=float).reshape(-1, 2)


def paired_table(
    items: Sequence[Item], others: Sequence[Item], name: str, images: Sequence[Hashable] | None = None
) -> Float[np.ndarray, "images 4"]:
    """The columns of both models, on the items that both have; see `image_table`."""
    mine = {item.key: item for item in items if name in item.counts}
    theirs = {item.key: item for item in others if name in item.counts}
    keys = [key for key in mine if key in theirs]
    # The image is taken from `items` on both sides, so that the rows of both tables are the same images.
    a = image_table([mine[key] for key in keys], name, images)
    b = image_table([Item(key, mine[key].image, theirs[key].counts) for key in keys], name, images)
    return np.hstack([a, b])
