"""Bootstrap intervals: properties, and a case with a known answer."""

import numpy as np
import pytest

from csr_core.evaluation.statistics import Item, compare, interval, measure, paired_difference, ratio


def items(values, images=None, name="rate"):
    images = range(len(values)) if images is None else images
    return [Item(i, image, {name: (float(v), 1.0)}) for i, (v, image) in enumerate(zip(values, images, strict=True))]


@pytest.fixture
def coin():
    return (np.random.default_rng(3).random(400) < 0.3).astype(float)


def test_ratio_of_sums_not_mean_of_ratios():
    """(1 + 0) / (1 + 3) = 1/4, not (1/1 + 0/3) / 2; and 0 where nothing was counted."""
    assert ratio(np.array([1.0, 0.0]), np.array([1.0, 3.0])) == 0.25
    assert ratio(np.zeros(2), np.zeros(2)) == 0


def test_interval_of_a_coin(coin):
    """A share p of n independent draws has standard error sqrt(p (1 - p) / n): 95 % within 1.96 of them."""
    found = interval(items(coin), "rate")
    p = coin.mean()
    error = 1.96 * np.sqrt(p * (1 - p) / len(coin))
    assert found.value == pytest.approx(p)
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * error, rel=0.1)
    assert found.n == 400


def test_same_seed_same_interval(coin):
    assert interval(items(coin), "rate", seed=1) == interval(items(coin), "rate", seed=1)
    assert interval(items(coin), "rate", seed=1) != interval(items(coin), "rate", seed=2)


def test_repeating_the_questions_of_an_image_does_not_narrow(coin):
    """Six copies of each question on its own picture tell no more; on pictures of their own they would."""
    single = interval(items(coin), "rate")
    together = interval(items(np.repeat(coin, 6), np.repeat(np.arange(400), 6)), "rate")
    apart = interval(items(np.repeat(coin, 6)), "rate")
    assert (together.value, together.low, together.high) == pytest.approx((single.value, single.low, single.high))
    assert apart.high - apart.low < 0.6 * (single.high - single.low)
    assert together.n == 2400


def test_pairing_narrows_and_needs_the_same_items(coin):
    """One model is the other with 10 more right answers: the difference is 10/400 on every resample nearly."""
    better = coin.copy()
    better[np.flatnonzero(coin == 0)[:10]] = 1
    found = paired_difference(items(better), items(coin), "rate")
    alone = interval(items(coin), "rate")
    assert found.difference == pytest.approx(10 / 400)
    assert 0 < found.low < 10 / 400 < found.high
    assert found.high - found.low < alone.high - alone.low
    # the order of the other's answers does not matter, and answers that only one model has are not compared
    assert paired_difference(items(better), items(coin)[::-1], "rate") == found
    half = paired_difference(items(better), items(coin)[:200], "rate")
    assert half.difference == pytest.approx(better[:200].mean() - coin[:200].mean())
    assert paired_difference(items(better), [Item("other", 0, {"rate": (1.0, 1.0)})], "rate") is None


def test_the_worked_example_of_the_docs():
    """docs/statistics.md: ten captions before and after; 6 pictures differ, and 2 of the 64 swaps are as far apart."""
    before = [(2, 5), (1, 4), (3, 6), (0, 3), (2, 4), (1, 5), (2, 6), (1, 3), (0, 4), (3, 5)]
    after = [(1, 4), (1, 4), (1, 5), (0, 3), (1, 4), (1, 5), (1, 5), (0, 3), (0, 4), (1, 4)]
    base, model = ([Item(i, i, {"chair_i": row}) for i, row in enumerate(rows)] for rows in (before, after))
    own = interval(base, "chair_i")
    assert (own.value, own.low, own.high) == pytest.approx((15 / 45, 0.185, 0.473), abs=5e-4)
    found = paired_difference(model, base, "chair_i")
    assert found.difference == pytest.approx(7 / 41 - 15 / 45)
    assert (found.low, found.high, found.detectable) == pytest.approx((-0.269, -0.056, 0.128), abs=5e-4)
    assert found.p == 2 / 64


def test_no_error_on_twenty_images_is_no_proof():
    """Clopper and Pearson: 0 of 20 pictures, so at most 1 - 0.025^(1/20) = 16.8 %; the same for 20 of 20."""
    assert interval(items([0.0] * 20), "rate").high == pytest.approx(0.1684, abs=1e-4)
    assert interval(items([1.0] * 20), "rate").low == pytest.approx(1 - 0.1684, abs=1e-4)
    # What is no share has no bound of its own.
    assert interval([Item(i, i, {"words": (20.0, 1.0)}) for i in range(5)], "words").high == 20


def test_one_image_has_no_spread():
    found = interval(items([1.0, 0.0], images=["a", "a"]), "rate")
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_measure_and_compare_take_every_name():
    both = [Item(i, i, {"a": (1.0, 2.0)} | ({"b": (1.0, 1.0)} if i else {})) for i in range(5)]
    found = measure(both, resamples=100)
    assert (found["a"].value, found["a"].n, found["b"].n) == (0.5, 5, 4)
    assert {name: d.difference for name, d in compare(both, both, resamples=100).items()} == {"a": 0, "b": 0}
