"""The calibrated reward (equation 4 of the paper), and two things that `steady` adds to it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def calibrated_reward(relevance: float, likelihood: float, image_weight: float) -> float:
    """R(s) = w * R_I(s) + (1 - w) * R_T(s): equation 4 of the paper, w its lambda."""
    return image_weight * relevance + (1.0 - image_weight) * likelihood


def standardise(likelihoods: Sequence[float], relevances: Sequence[float]) -> list[float]:
    """R_T put on the scale of R_I among one image's candidates: mean(R_I) + sd(R_I) * z(R_T). Ours, not the paper's.

    Raw R_I (about 20 to 40) dwarfs R_T (0 to 1); on one scale, the weight decides what it says it decides. Equal R_T
    have nothing to say and all become mean(R_I). Standard deviations are those of the whole population.
    """
    if not likelihoods:
        return []
    center, spread = statistics.fmean(relevances), statistics.pstdev(relevances)
    mean, deviation = statistics.fmean(likelihoods), statistics.pstdev(likelihoods)
    # Against the size of the values: the deviation of equal numbers need not come out as exactly 0.
    if deviation <= 1e-9 * max(abs(value) for value in likelihoods):
        return [center] * len(likelihoods)
    return [center + spread * (value - mean) / deviation for value in likelihoods]


def normalised(text: str) -> str:
    """A sentence without what does not make it another one: letter case and white space."""
    return " ".join(text.split()).casefold()


def is_repeat(text: str, earlier: Sequence[str]) -> bool:
    """Whether `text` is, but for case and white space, one of the `earlier` sentences of its path."""
    return normalised(text) in {normalised(other) for other in earlier}


def without_repeats(rewards: Sequence[float], repeated: Sequence[bool]) -> list[float]:
    """The rewards of one image's candidates, those that repeat a sentence of their own path replaced by 0.

    0 is the least that the paper's reward can be (R_I and R_T are both >= 0 there). Where R_T is a logarithm, or
    standardised, rewards can be negative and 0 would be a prize: a repeat then earns the least reward of the image's
    candidates.
    """
    floor = min(0.0, min(rewards, default=0.0))
    return [floor if again else reward for reward, again in zip(rewards, repeated, strict=True)]
