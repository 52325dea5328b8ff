"""The equations of the reward, each on a case worked by hand."""

import math
import random

import pytest
import torch

from csr_core.config import RewardSettings
from csr_core.reward.calibration import calibrated_reward, is_repeat, standardise, without_repeats
from csr_core.reward.likelihood import likelihood_reward
from csr_core.reward.ranks import combined_rank, sibling_ranks, tolerant_order
from csr_core.reward.relevance import image_relevance
from csr_core.reward.scorer import rewards_of_image


def test_relevance_is_a_hundred_cosines_and_not_below_zero() -> None:
    image = torch.tensor([0.6, 0.8])
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    assert image_relevance(image, texts).tolist() == pytest.approx([60.0, 80.0, 0.0])
    assert image_relevance(image, texts, floor=False).tolist() == pytest.approx([60.0, 80.0, -60.0])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("probability", 0.125),  # 0.5 ** 3
        ("mean_probability", 0.5),
        ("log_probability", -3 * math.log(2)),
        ("mean_log_probability", -math.log(2)),
        ("beam_score", -7.0),
    ],
)
def test_likelihood_of_three_coin_tosses(form, expected) -> None:
    assert likelihood_reward(form, 3 * math.log(0.5), 3, beam_score=-7.0) == pytest.approx(expected)


def test_beam_score_must_be_given() -> None:
    with pytest.raises(ValueError, match="beam_score"):
        likelihood_reward("beam_score", -1.0, 3)


def test_sentence_without_tokens_has_probability_one() -> None:
    assert likelihood_reward("mean_probability", 0.0, 0) == 1.0


def test_calibration_weighs_picture_and_likelihood() -> None:
    assert calibrated_reward(30.0, 0.5, image_weight=0.9) == pytest.approx(27.05)
    assert calibrated_reward(30.0, 0.5, image_weight=0.0) == 0.5
    assert calibrated_reward(30.0, 0.5, image_weight=1.0) == 30.0


def test_standardised_likelihood_has_the_mean_and_spread_of_relevance() -> None:
    # R_T: mean 0.2, sd 0.1; R_I: mean 20, sd 10; z = -1, 1 -> 10, 30
    assert standardise([0.1, 0.3], [30.0, 10.0]) == pytest.approx([10.0, 30.0])


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3])
def test_equal_likelihoods_become_the_mean_relevance(value) -> None:
    assert standardise([value] * 3, [10.0, 20.0, 60.0]) == pytest.approx([30.0] * 3)
    assert standardise([], []) == []


def test_standardising_ignores_the_scale_of_the_likelihood() -> None:
    tiny = standardise([1e-12, 3e-12], [30.0, 10.0])
    assert tiny == pytest.approx(standardise([1.0, 3.0], [30.0, 10.0]))


def test_repeat_is_told_by_its_words_alone() -> None:
    assert is_repeat(" There is a  DOG.", ["The image shows a park.", "There is a dog."])
    assert not is_repeat("There is a dog.", ["There is a hot dog."])


def test_repeat_earns_nothing_and_never_a_prize() -> None:
    assert without_repeats([27.0, 30.0, 3.0], [False, True, False]) == [27.0, 0.0, 3.0]
    # Logarithms: 0 would be the best of all.
    assert without_repeats([-2.0, -0.1, -9.0], [False, True, False]) == [-2.0, -9.0, -9.0]
    assert without_repeats([], []) == []


def test_rewards_of_image_puts_scale_weight_and_repeats_together() -> None:
    settings = RewardSettings(image_weight=0.5, likelihood_scale="standardised", repeats_earn_nothing=True)
    scaled, rewards = rewards_of_image(settings, [30.0, 10.0], [0.1, 0.3], [False, True])
    assert scaled == pytest.approx([10.0, 30.0])
    assert rewards == pytest.approx([20.0, 0.0])
    plain = RewardSettings(image_weight=0.5)
    assert rewards_of_image(plain, [30.0, 10.0], [0.1, 0.3], [False, True])[1] == pytest.approx([15.05, 5.15])


def test_ranks_count_from_the_best_and_ties_keep_their_order() -> None:
    assert sibling_ranks([-1.0, -3.0, -0.5, -2.0]) == [0.5, 1.0, 0.25, 0.75]
    assert sibling_ranks([5.0, 7.0, 5.0]) == pytest.approx([2 / 3, 1 / 3, 1.0])
    assert sibling_ranks([5.0, 5.00001, 4.0]) == pytest.approx([1 / 3, 2 / 3, 1.0])  # noise is no difference
    assert sibling_ranks([5.0, 5.01, 4.0]) == pytest.approx([2 / 3, 1 / 3, 1.0])


def test_combined_rank() -> None:
    assert combined_rank(0.2, 0.6, image_weight=0.9) == pytest.approx(0.56)


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_change_an_order(seed) -> None:
    draw = random.Random(seed)
    values = [draw.randint(-5, 5) for _ in range(draw.randint(0, 15))]
    noisy = [value + draw.uniform(-1e-6, 1e-6) for value in values]
    expected = sorted(range(len(values)), key=lambda index: -values[index])
    assert tolerant_order(noisy) == expected
    assert tolerant_order(noisy, descending=False) == sorted(range(len(values)), key=lambda index: values[index])
