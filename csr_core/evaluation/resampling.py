"""The numerical core of the statistics: estimates from sums over images, their bootstrap, and the sign-flip test.

Data are tables with a row an image. With columns (a, b) the estimate is the ratio sum(a) / sum(b); with columns
(a, b, c, d) it is the difference sum(a) / sum(b) - sum(c) / sum(d) of two models on the same images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LEVEL = 0.95
CELLS = 1_000_000  # of a batch of resamples: 8 MB an array
EXACT = 12  # images: up to so many that differ, all swaps are counted
SPARSE = 0.001  # share of resamples without spread from which on they are not divided by it
ROUNDING = 1e-9  # relative


@dataclass(frozen=True)
class Estimate:
    """A value with all that its interval needs.

    `influence` is what each image adds to the value's error, to first order; the standard error is
    sqrt(n / (n - 1) sum(influence^2)): the linearisation of a ratio of sums over clusters (Cochran 1977, ch. 6).
    `values` and `errors` are value and standard error of each bootstrap resample.
    """

    value: float
    error: float
    influence: Float[np.ndarray, " images"]
    values: Float[np.ndarray, " resamples"]
    errors: Float[np.ndarray, " resamples"]


def estimate(table: Float[np.ndarray, "images columns"], resamples: int = 2000, seed: int = 0) -> Estimate:
    """The estimate of `table`. Tables with equally many images get the same resamples for the same seed."""
    count, columns = table.shape
    value, gradient = _value(table.sum(axis=0))
    influence = table @ gradient
    error = float(np.sqrt(count / max(count - 1, 1) * np.sum(influence**2)))
    if count < 2:  # one image says nothing about how images vary
        return Estimate(float(value), 0.0, 0 * influence, np.full(resamples, value), np.zeros(resamples))
    products = np.einsum("ij,ik->ijk", table, table).reshape(count, columns * columns)
    sums = np.concatenate([w @ np.hstack([table, products]) for w in _weights(count, resamples, seed)])
    values, gradients = _value(sums[:, :columns])
    moments = sums[:, columns:].reshape(-1, columns, columns)
    variances = np.einsum("ri,rij,rj->r", gradients, moments, gradients)
    errors = np.sqrt(np.maximum(variances, 0.0) * count / (count - 1))
    errors[errors < 1e-6 * error] = 0.0  # what rounding left of nothing
    if error <= ROUNDING * max(1.0, abs(float(value))):
        error = 0.0
    return Estimate(float(value), error, influence, values, errors)


def minus(one: Estimate, other: Estimate) -> Estimate:
    """The difference of two estimates from different images."""
    # Both had the same draws if they have equally many images: put one of them in another order.
    order = np.random.default_rng(1).permutation(len(other.values))
    return Estimate(
        one.value - other.value,
        float(np.hypot(one.error, other.error)),
        np.concatenate([one.influence, -other.influence]),
        one.values - other.values[order],
        np.hypot(one.errors, other.errors[order]),
    )


def bounds(found: Estimate) -> tuple[float, float]:
    """A 95 % interval of a figure: studentised bootstrap (bootstrap-t; Efron and Tibshirani 1993, ch. 12.5).

    Where some resamples have no spread at all (few images with an error), dividing by it explodes, and the BCa interval
    (the same book, ch. 14.3) is taken. Without any spread among the images, both bounds are the value. Why these:
    docs/decisions/2026-11-25-intervals.md has the coverage of each method on simulated data.
    """
    if found.error == 0:
        return found.value, found.value
    tail = (1 - LEVEL) / 2
    if np.mean(found.errors == 0) > SPARSE:
        return _bca(found, tail)
    low, high = np.quantile(_studentised(found), [tail, 1 - tail])
    return float(found.value - high * found.error), float(found.value - low * found.error)


def symmetric_bounds(found: Estimate) -> tuple[float, float]:
    """A 95 % interval of a difference: the symmetric studentised bootstrap (Hall 1988), as differences have no skew.

    Where some resamples have no spread, Student's t with the linearised standard error.
    """
    from scipy.stats import t

    if found.error == 0:
        return found.value, found.value
    if np.mean(found.errors == 0) > SPARSE:
        half = found.error * t.ppf((1 + LEVEL) / 2, len(found.influence) - 1)
    else:
        half = found.error * np.quantile(np.abs(_studentised(found)), LEVEL)
    return float(found.value - half), float(found.value + half)


def _studentised(found: Estimate) -> Float[np.ndarray, " resamples"]:
    spread = found.errors > 0
    ratios: np.ndarray = (found.values - found.value)[spread] / found.errors[spread]
    return ratios


def _bca(found: Estimate, tail: float) -> tuple[float, float]:
    from scipy.stats import norm

    below = np.mean(found.values < found.value) + np.mean(found.values == found.value) / 2
    bias = norm.ppf(np.clip(below, 1 / len(found.values), 1 - 1 / len(found.values)))
    skew = np.sum(found.influence**3) / (6 * np.sum(found.influence**2) ** 1.5)
    quantiles = bias + norm.ppf([tail, 1 - tail])
    low, high = np.quantile(found.values, norm.cdf(bias + quantiles / (1 - skew * quantiles)))
    return float(low), float(high)


def sign_flip(table: Float[np.ndarray, "images 4"], permutations: int = 9999, seed: int = 0) -> float:
    """Two-sided p of the paired permutation test: the two models' counts of an image are swapped at random.

    If the models do not differ, which of them gave which counts is a coin's toss for each image. The statistic is the
    difference of the two ratios, computed from the swapped sums, so it suits ratios such as CHAIR_i, and questions
    on one picture stay together. Where each image has one yes/no question, the share of swaps has a closed form, and
    this is the exact McNemar test; with several questions an image it is McNemar's test's counterpart for clusters.
    Up to EXACT differing images all swaps are counted; otherwise `permutations` are drawn, and p is at least
    1 / (1 + permutations) (Phipson and Smyth 2010). Not `scipy.stats.permutation_test`: it has no statistic of several
    columns that does not gather them anew for each swap.
    """
    from scipy.stats import binomtest

    one, other = table[:, :2], table[:, 2:]
    change = (other - one)[np.any(one != other, axis=1)]  # what swapping an image does to the first model's sums
    images = len(change)
    if images == 0:
        return 1.0
    if np.all(table[:, 1] == table[0, 1]) and np.all(change[:, 1] == 0) and np.ptp(np.abs(change[:, 0])) == 0:
        return float(binomtest(int(np.sum(change[:, 0] > 0)), images).pvalue)
    first, second = one.sum(axis=0), other.sum(axis=0)

    def distance(shift: np.ndarray) -> np.ndarray:
        away: np.ndarray = np.abs(_value(np.hstack([first + shift, second - shift]))[0])
        return away

    least = distance(np.zeros((1, 2)))[0] * (1 - ROUNDING) - 1e-15
    if images <= EXACT:
        swaps = (np.arange(2**images)[:, None] >> np.arange(images)) & 1
        return float(np.mean(distance(swaps @ change) >= least))
    rng, hits, left = np.random.default_rng(seed), 0, permutations
    while left:
        batch = min(left, max(1, CELLS // images))
        bits = np.frombuffer(rng.bytes(batch * (-(-images // 8))), np.uint8).reshape(batch, -1)
        drawn = np.unpackbits(bits, axis=1, count=images).astype(float)
        hits += int(np.sum(distance(drawn @ change) >= least))
        left -= batch
    return (1 + hits) / (1 + permutations)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): holds the chance of any false claim, whatever the dependence."""
    corrected, so_far = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        so_far = max(so_far, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = so_far
    return corrected


def detectable(error: float, power: float = 0.8) -> float | None:
    """The smallest true difference that a two-sided test at 5 % would have found with this `power`.

    (z_0.975 + z_power) standard errors; None where the sample shows no spread to judge by.
    """
    from scipy.stats import norm

    return float((norm.ppf((1 + LEVEL) / 2) + norm.ppf(power)) * error) if error > 0 else None


def _value(sums: Float[np.ndarray, "*resamples columns"]) -> tuple[np.ndarray, np.ndarray]:
    """Value and gradient of the ratio, or of the difference of two; 0 where nothing was counted."""
    above, below = sums[..., 0::2], sums[..., 1::2]
    inverse = np.divide(1.0, below, out=np.zeros_like(below, dtype=float), where=below != 0)
    shares, signs = above * inverse, np.array([1.0, -1.0])[: above.shape[-1]]
    gradient = np.stack([signs * inverse, -signs * shares * inverse], axis=-1)
    return shares @ signs, gradient.reshape(sums.shape)


def _weights(images: int, resamples: int, seed: int) -> Iterator[Float[np.ndarray, "batch images"]]:
    """How often each image is in each resample, some resamples at a time."""
    rng, left = np.random.default_rng(seed), resamples
    while left:
        batch = min(left, max(1, CELLS // images))
        drawn = rng.integers(0, images, (batch, images)) + images * np.arange(batch)[:, None]
        yield np.bincount(drawn.ravel(), minlength=batch * images).reshape(batch, images).astype(float)
        left -= batch
