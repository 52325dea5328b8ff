"""On simulated data: 95 % intervals hold the truth in 93-97 % of 1,000 repeats, and the paired test keeps its level.

Each repeat calls the functions that make the figures of a run, with fewer resamples to save time.
"""

from collections.abc import Callable

import numpy as np
import pytest

from csr_core.evaluation.contrasts import relative_gain
from csr_core.evaluation.resampling import bounds, estimate, sign_flip, symmetric_bounds
from csr_core.evaluation.seeds import over_seeds
from csr_core.evaluation.statistics import Item

REPEATS, RESAMPLES, IMAGES = 1000, 600, 200


def answers(rng: np.random.Generator, images: int, questions: int, likely: np.ndarray | None = None) -> np.ndarray:
    """Right answers by image: a picture's questions share how hard it is (Beta with mean 0.85)."""
    likely = rng.beta(0.85 * 4, 0.15 * 4, images) if likely is None else likely
    return np.stack([rng.binomial(questions, likely).astype(float), np.full(images, float(questions))], axis=1)


def captions(rng: np.random.Generator, images: int, likely: np.ndarray | None = None) -> np.ndarray:
    """(hallucinated, mentions) by image: longer captions hallucinate more, so CHAIR_i is no mean of shares."""
    mentions = 1 + rng.poisson(rng.gamma(4, 5 / 4, images))
    likely = rng.beta(0.25 * 4, 0.75 * 4, images) if likely is None else likely
    wrong = rng.binomial(mentions, np.clip(likely * (0.5 + mentions / 12), 0, 1))
    return np.stack([wrong, mentions], axis=1).astype(float)


SAMPLES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "one question a picture": lambda rng, images: answers(rng, images, 1),
    "six questions a picture": lambda rng, images: answers(rng, images, 6),
    "CHAIR_i": captions,
}
# Two models of equal quality: a picture is as hard for one as for the other.
PAIRS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "one question a picture": lambda rng, images: two(answers, rng, rng.beta(0.85 * 4, 0.15 * 4, images), 1),
    "six questions a picture": lambda rng, images: two(answers, rng, rng.beta(0.85 * 4, 0.15 * 4, images), 6),
    "CHAIR_i": lambda rng, images: two(captions, rng, rng.beta(0.25 * 4, 0.75 * 4, images)),
}


def two(draw: Callable[..., np.ndarray], rng: np.random.Generator, likely: np.ndarray, *more: int) -> np.ndarray:
    return np.hstack([draw(rng, len(likely), *more, likely=likely) for _ in range(2)])


@pytest.mark.parametrize(
    ("name", "images"), [*((name, IMAGES) for name in SAMPLES), ("six questions a picture", 60), ("CHAIR_i", 60)]
)
def test_intervals_hold_the_truth(name: str, images: int) -> None:
    rng = np.random.default_rng(7)
    above, below = SAMPLES[name](rng, 2_000_000).sum(axis=0)
    held = 0
    for repeat in range(REPEATS):
        low, high = bounds(estimate(SAMPLES[name](rng, images), RESAMPLES, seed=repeat))
        held += low <= above / below <= high
    assert 0.93 <= held / REPEATS <= 0.97


# An exact test of few yes/no questions rejects in steps, and less often than allowed: there only the upper end is held.
@pytest.mark.parametrize(
    ("name", "images", "least"),
    [
        ("one question a picture", 100, 0.0),
        ("one question a picture", IMAGES, 0.03),
        ("six questions a picture", IMAGES, 0.03),
        ("CHAIR_i", IMAGES, 0.03),
    ],
)
def test_differences_hold_the_truth_and_the_test_keeps_its_level(name: str, images: int, least: float) -> None:
    rng = np.random.default_rng(8)
    held = rejected = 0
    for repeat in range(REPEATS):
        table = PAIRS[name](rng, images)
        low, high = symmetric_bounds(estimate(table, RESAMPLES, seed=repeat))
        held += low <= 0 <= high
        rejected += sign_flip(table, permutations=399, seed=repeat) <= 0.05
    assert 0.93 <= held / REPEATS <= 0.97
    assert least <= rejected / REPEATS <= 0.07


def test_treating_questions_as_pictures_would_not_hold_it() -> None:
    """The same clustered answers, each question taken for a picture of its own: far too sure."""
    rng = np.random.default_rng(9)
    held = 0
    for repeat in range(200):
        right = answers(rng, IMAGES, 6)[:, 0].astype(int)
        single = (np.arange(6) < right[:, None]).astype(float).ravel()
        low, high = bounds(estimate(np.stack([single, np.ones_like(single)], axis=1), RESAMPLES, seed=repeat))
        held += low <= 0.85 <= high
    assert held / 200 < 0.90


def test_the_mean_over_three_seeds_holds_the_truth() -> None:
    """Each seed shifts the model's quality; all are measured on the same pictures, as hard for one as for the other."""
    rng = np.random.default_rng(10)
    held = 0
    for _ in range(REPEATS):
        hard, quality = rng.normal(0, 1, IMAGES), rng.normal(0, 0.03, 3)
        likely = [np.clip(0.75 + shift + 0.1 * hard, 0, 1) for shift in quality]
        found = over_seeds([answers(rng, IMAGES, 3, one) for one in likely])
        held += found.low <= 0.7494 <= found.high  # E clip(0.75 + N(0, 0.0109), 0, 1)
    assert 0.93 <= held / REPEATS <= 0.97


def test_the_relative_gain_holds_the_truth() -> None:
    """Two benchmarks, means 0.85 -> 0.9 and 0.75 -> 0.8 of the pictures: (0.9 + 0.8) / (0.85 + 0.75) - 1."""
    rng = np.random.default_rng(11)
    held = 0

    def items(means: tuple[float, float], hard: list[np.ndarray]) -> dict[str, list[Item]]:
        return {
            name: [Item(i, i, {"right": (float(x), 1.0)}) for i, x in enumerate(rng.random(60) < mean + spread)]
            for name, mean, spread in zip("ab", means, hard, strict=True)
        }

    for repeat in range(REPEATS // 2):
        hard = [rng.uniform(-0.1, 0.1, 60) for _ in range(2)]
        found = relative_gain(
            items((0.9, 0.8), hard), items((0.85, 0.75), hard), [("a", "right"), ("b", "right")], 400, repeat
        )
        held += found.low <= 1.7 / 1.6 - 1 <= found.high
    assert 0.925 <= held / (REPEATS // 2) <= 0.975
