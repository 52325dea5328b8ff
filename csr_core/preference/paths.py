"""Complete answers of a scored tree, and what each is worth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from csr_core.reward.calibration import normalised

PathScore = Literal["sum", "mean", "centred_sum", "threshold_sum", "rank_mean"]


@dataclass(frozen=True)
class Answer:
    """One complete answer: the nodes from the root's child to a final leaf.

    `value` is its score, higher is better under every rule; `sentences` its normalised sentences in order.
    """

    nodes: tuple[int, ...]
    text: str
    sentences: tuple[str, ...]
    value: float

    @property
    def leaf(self) -> int:
        return self.nodes[-1]


def complete_answers(tree: Sequence[dict[str, Any]], rule: PathScore, threshold: float = 0.67) -> list[Answer]:
    """All paths that end in a final leaf and hold no dropped node, ordered by leaf, with their scores.

    `tree` holds one prompt's rows of the SCORES table; `threshold` is that of `threshold_sum`.
    """
    by_node = {row["node"]: row for row in tree}
    rewards = [row["reward"] for row in tree if row["reward"] is not None]
    mean, best = (statistics.fmean(rewards), max(rewards)) if rewards else (0.0, 0.0)
    answers = []
    for leaf in sorted(row["node"] for row in tree if row["is_final"] and row["parent"] is not None):
        rows = _rows_to(by_node, leaf)
        if any(row["dropped"] for row in rows):
            continue
        # A node without text only ends the answer: it has no reward and is no sentence.
        earned = [row["reward"] for row in rows if row["reward"] is not None]
        if earned:
            sentences = tuple(normalised(row["text"]) for row in rows if row["text"].strip())
            text = "".join(row["text"] for row in rows).strip()
            value = path_score(rule, earned, mean, threshold * best, nodes=len(rows))
            answers.append(Answer(tuple(row["node"] for row in rows), text, sentences, value))
    return answers


def _rows_to(by_node: dict[int, dict[str, Any]], leaf: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    row = by_node[leaf]
    while row["parent"] is not None:
        rows.append(row)
        row = by_node[row["parent"]]
    return rows[::-1]


def path_score(rule: PathScore, rewards: Sequence[float], image_mean: float, bar: float, nodes: int) -> float:
    """What a path with these rewards of its sentences is worth, higher is better.

    `image_mean`: over the image's candidates; `bar`: see `threshold_sum`; `nodes`: of the path, root left out.
    """
    if rule == "sum":
        return cumulative_reward(rewards)
    if rule == "mean":
        return statistics.fmean(rewards)
    if rule == "centred_sum":
        return centred_sum(rewards, image_mean)
    if rule == "threshold_sum":
        return threshold_sum(rewards, bar)
    return rank_mean(rewards, nodes)


def cumulative_reward(rewards: Sequence[float]) -> float:
    """R(y) = sum over its sentences of R(s): the paper's score of an answer."""
    return math.fsum(rewards)


def centred_sum(rewards: Sequence[float], image_mean: float) -> float:
    """sum of (R(s) - mean R over the image's candidates): a sentence pays only if it is better than the image's usual
    one, so that neither short nor long answers win by their length. Ours."""
    return math.fsum(reward - image_mean for reward in rewards)


def threshold_sum(rewards: Sequence[float], bar: float) -> float:
    """sum of (R(s) - bar), bar = threshold x the best reward among the image's candidates.

    Like the centred sum, but where nearly all candidates are true the mean comes close to the reward of a true
    sentence, and half of the true ones would cost. A high bar weighs what is false, a low one what is left unsaid.
    Ours (`steady`).
    """
    return math.fsum(reward - bar for reward in rewards)


def rank_mean(rewards: Sequence[float], nodes: int) -> float:
    """Sum of the combined ranks / number of nodes INCLUDING the root, as in the authors' code; rewards are ranks with
    their sign turned, and so is this (their lower is better, here higher is)."""
    return math.fsum(rewards) / (nodes + 1)
