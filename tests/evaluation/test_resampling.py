"""Cases worked by hand, and scipy's own tests where they can do the same."""

import numpy as np
import pytest
from scipy.stats import binomtest, permutation_test

from csr_core.evaluation.resampling import bounds, detectable, estimate, holm, minus, sign_flip, symmetric_bounds

RNG = np.random.default_rng(0)


def shares(*values: float) -> np.ndarray:
    return np.array([[value, 1.0] for value in values])


def test_the_standard_error_of_a_mean_and_of_a_ratio() -> None:
    """Of a mean: s / sqrt(n). Of (1 + 0) / (1 + 3): residuals 1 - 1/4 and 0 - 3/4, of 4: sqrt(2 / 1 * 2 * (3/16)^2)."""
    values = RNG.random(50)
    found = estimate(shares(*values))
    assert found.error == pytest.approx(values.std(ddof=1) / np.sqrt(50))
    found = estimate(np.array([[1.0, 1.0], [0.0, 3.0]]))
    assert (found.value, found.error) == (0.25, pytest.approx(np.sqrt(2 * 2 * (3 / 16) ** 2)))


def test_each_resample_has_its_own_error() -> None:
    """With images 0 and 1, a resample is 0, 1/2 or 1; only the middle one has spread: 1/2, as two draws of +-1/2."""
    found = estimate(shares(0, 1), resamples=400)
    assert set(found.values) == {0, 0.5, 1}
    assert np.all(found.errors[found.values == 0.5] == pytest.approx(0.5))
    assert not found.errors[found.values != 0.5].any()


def test_the_difference_of_a_model_to_itself_is_nothing() -> None:
    table = np.hstack([shares(*RNG.random(30))] * 2)
    found = estimate(table)
    assert (found.value, found.error) == (0, 0)
    assert symmetric_bounds(found) == (0, 0)
    assert sign_flip(table) == 1
    assert detectable(found.error) is None


def test_few_errors_leave_the_studentised_interval_to_bca() -> None:
    """Three of forty wrong: some resamples have none, which the studentised interval could not divide by."""
    found = estimate(shares(*[0.0] * 37, *[1.0] * 3))
    assert np.mean(found.errors == 0) > 0.01
    low, high = bounds(found)
    assert 0 < low < 3 / 40 < high < 0.3


def test_independent_samples_add_their_variances() -> None:
    one, other = estimate(shares(*RNG.random(40))), estimate(shares(*RNG.random(40)))
    found = minus(one, other)
    assert found.error == pytest.approx(np.hypot(one.error, other.error))
    assert found.values.std() == pytest.approx(found.error, rel=0.1)  # no draw in common


def test_one_question_an_image_is_mcnemar_exactly() -> None:
    """15 to 5 discordant questions among 100: the binomial test of 15 of 20."""
    mine, theirs = np.zeros(100), np.zeros(100)
    mine[:60], theirs[:50], theirs[60:65] = 1, 1, 1
    mine[:5], theirs[:5] = 1, 0
    found = sign_flip(np.hstack([shares(*mine), shares(*theirs)]))
    assert found == pytest.approx(binomtest(15, 20).pvalue)


@pytest.mark.parametrize("images", [8, 60])
def test_it_agrees_with_scipys_permutation_test(images: int) -> None:
    """Sums of several questions a picture, all with the same denominator: scipy's test of the mean difference."""
    rng = np.random.default_rng(images)
    mine, theirs = rng.integers(0, 7, images) + 0.0, rng.integers(0, 6, images) + 0.0
    table = np.stack([mine, np.full(images, 6.0), theirs, np.full(images, 6.0)], axis=1)
    expected = permutation_test(
        (mine, theirs), lambda a, b, axis: np.mean(a - b, axis=axis), permutation_type="samples", vectorized=True, rng=1
    )
    assert sign_flip(table) == pytest.approx(expected.pvalue, abs=1e-9 if images == 8 else 0.015)


def test_a_ratio_is_computed_from_the_swapped_sums() -> None:
    """Two images: 1 of 1 against 0 of 1, and 0 of 1 against 0 of 3. Not swapped the difference is 1/2 - 0; with the
    first swapped 0/2 - 1/4, with the second 1/4 - 0/2, with both 0/4 - 1/2: two of four are as far from 0 as 1/2.
    """
    table = np.array([[1.0, 1, 0, 1], [0, 1, 0, 3]])
    assert sign_flip(table) == 0.5


def test_a_difference_on_every_image_is_found() -> None:
    table = np.stack([RNG.integers(3, 6, 40), np.full(40, 6), RNG.integers(0, 4, 40), np.full(40, 6)], axis=1) + 0.0
    assert sign_flip(table, permutations=999) == pytest.approx(1 / 1000)


def test_holms_correction_by_hand() -> None:
    """0.01, 0.04, 0.03 of three: 0.03, then 0.06 for 0.03, and 0.04 no less than that."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_difference_of_the_detectable_size_is_found_in_four_of_five_samples() -> None:
    """The true difference is set to what one sample calls detectable; 80 % of new samples find it."""
    rng = np.random.default_rng(3)

    def sample(shift: float) -> np.ndarray:
        hard = rng.normal(0, 1, 200)
        mine, theirs = (hard + rng.normal(size, 0.5, 200) for size in (shift, 0.0))
        return np.hstack([shares(*mine), shares(*theirs)])

    least = detectable(estimate(sample(0.0)).error)
    assert least == pytest.approx(2.80 * np.sqrt(2 * 0.25 / 200), rel=0.15)
    found = [sign_flip(sample(2.80 * np.sqrt(2 * 0.25 / 200)), 399, seed=i) <= 0.05 for i in range(300)]
    assert 0.73 < np.mean(found) < 0.87
