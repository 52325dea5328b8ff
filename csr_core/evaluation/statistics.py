"""Ratios of counts with bootstrap intervals over images.

Every figure of this package is a ratio of two sums: CHAIR_i = hallucinated mentions / mentions, F1 = 2 TP / (2 TP +
FP + FN), and so on. An *item* (a caption, a question) contributes its part of both sums; items on one picture belong
together, so pictures are resampled, with all their items.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float

Counts = dict[str, tuple[float, float]]  # name of the figure -> (numerator, denominator)
LEVEL = 0.95


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
    """Figure of one model minus that of another on the same items, with its 95 % interval."""

    difference: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
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
    """The figure `name` over `items`, with a percentile interval from `resamples` resamples of the images."""
    with_name = [item for item in items if name in item.counts]
    above, below = _by_image(with_name, name)
    low, high = _percentiles(ratio, (above, below), resamples, seed)
    return Interval(float(ratio(above, below)), low, high, len(with_name))


def paired_difference(
    items: Sequence[Item], others: Sequence[Item], name: str, resamples: int = 2000, seed: int = 0
) -> Difference | None:
    """`name` over `items` minus `name` over `others`, on the items that both have, resampling the same images in both.

    Returns None where they have no item in common.
    """
    mine = {item.key: item for item in items if name in item.counts}
    theirs = {item.key: item for item in others if name in item.counts}
    keys = [key for key in mine if key in theirs]
    if not keys:
        return None
    # The image is taken from `items` on both sides, so that the rows of both tables are the same images.
    a = _by_image([mine[key] for key in keys], name)
    b = _by_image([Item(key, mine[key].image, theirs[key].counts) for key in keys], name)

    def difference(a1: np.ndarray, a0: np.ndarray, b1: np.ndarray, b0: np.ndarray, axis: int = -1) -> np.ndarray:
        mine: np.ndarray = ratio(a1, a0, axis) - ratio(b1, b0, axis)
        return mine

    low, high = _percentiles(difference, (*a, *b), resamples, seed)
    return Difference(float(difference(*a, *b)), low, high)


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


def _by_image(items: Sequence[Item], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(numerators, denominators), one entry an image."""
    sums: dict[Hashable, list[float]] = {}
    for item in items:
        above, below = item.counts[name]
        total = sums.setdefault(item.image, [0.0, 0.0])
        total[0] += above
        total[1] += below
    table = np.array(list(sums.values()), dtype=float).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _percentiles(
    statistic: Callable[..., np.ndarray], data: tuple[np.ndarray, ...], resamples: int, seed: int
) -> tuple[float, float]:
    from scipy.stats import bootstrap

    if len(data[0]) < 2:  # one picture says nothing about how pictures vary
        value = float(statistic(*data))
        return value, value
    result = bootstrap(
        data,
        statistic,
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=resamples,
        confidence_level=LEVEL,
        batch=max(1, 2_000_000 // len(data[0])),  # 16 MB an array at a time
        rng=np.random.default_rng(seed),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
