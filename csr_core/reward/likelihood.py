"""Instruction following R_T: how likely the policy itself finds a sentence, in the forms on offer."""

from __future__ import annotations

import math
from typing import Literal

Form = Literal["probability", "mean_probability", "log_probability", "mean_log_probability", "beam_score"]


def likelihood_reward(form: Form, log_likelihood: float, tokens: int, beam_score: float | None = None) -> float:
    """R_T of one sentence in the chosen form.

    `log_likelihood` is the sum of log p over its tokens (nats), `tokens` their number; `beam_score` the node's own
    score in the search (its cumulative score less its parent's), needed by the form of that name alone.

    Raises:
        ValueError: the form `beam_score` without a beam score.
    """
    if form == "probability":
        return sentence_probability(log_likelihood)
    if form == "mean_probability":
        return mean_probability(log_likelihood, tokens)
    if form == "log_probability":
        return log_likelihood
    if form == "mean_log_probability":
        return log_likelihood / max(tokens, 1)
    if beam_score is None:
        raise ValueError("reward.likelihood is 'beam_score', and the search's score of the sentence was not given")
    return beam_score


def sentence_probability(log_likelihood: float) -> float:
    """R_T(s) = prod_i p(r_i | x, r_<i), equation 2 of the paper, from the sum of logarithms."""
    return math.exp(log_likelihood)


def mean_probability(log_likelihood: float, tokens: int) -> float:
    """Equation 2 with its length taken out: the geometric mean of the tokens' probabilities."""
    return math.exp(log_likelihood / max(tokens, 1))
