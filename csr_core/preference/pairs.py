"""From complete answers to one (chosen, rejected) pair a prompt, and the reasons for leaving one out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from csr_core.config import PairSettings
from csr_core.preference.paths import Answer, complete_answers
from csr_core.reward.calibration import normalised
from csr_core.reward.ranks import TIE, tolerant_order

NO_ANSWER = "no complete answer"
ONE_ANSWER = "only one complete answer"
SAME_TEXT = "equal texts"
SAME_SENTENCES = "same sentences in another order"
NO_SAME_LENGTH = "no answer of the chosen one's number of sentences"
SMALL_MARGIN = "margin too small"
CLOSEST = "among the closest pairs"


@dataclass(frozen=True)
class Pair:
    """The best and the worst answer to one prompt; `margin` = chosen.value - rejected.value > 0."""

    prompt_id: str
    chosen: Answer
    rejected: Answer

    @property
    def margin(self) -> float:
        return self.chosen.value - self.rejected.value


def pair_of_tree(
    prompt_id: str, tree: Sequence[dict[str, Any]], settings: PairSettings, same_length: bool
) -> Pair | str:
    """The pair of one prompt's scored tree, or why there is none.

    Values that differ by noise alone (1e-4 of the tree's largest reward) are equal, and of equals the lowest leaf wins
    on either side, so that the pair does not depend on how sentences were batched. `same_length`: the rejected answer
    must have the chosen one's number of sentences.
    """
    answers = complete_answers(tree, settings.path_score, settings.threshold)
    if not answers:
        return NO_ANSWER
    noise = TIE * max(abs(row["reward"]) for row in tree if row["reward"] is not None)
    chosen = _first_within(answers, max(answer.value for answer in answers), noise)
    others = [answer for answer in answers if answer.nodes != chosen.nodes]
    if not others:
        return ONE_ANSWER
    if same_length:
        others = [answer for answer in others if len(answer.sentences) == len(chosen.sentences)]
    if not others:
        return NO_SAME_LENGTH
    rejected = _first_within(others, min(answer.value for answer in others), noise)
    if normalised(chosen.text) == normalised(rejected.text):
        return SAME_TEXT
    pair = Pair(prompt_id, chosen, rejected)
    tied = pair.margin <= max(settings.min_margin, noise)
    # Under these sums the order of sentences is worth nothing: what is left of a margin is their likelihood.
    by_sum = settings.path_score in ("centred_sum", "threshold_sum")
    if (tied or by_sum) and sorted(chosen.sentences) == sorted(rejected.sentences):
        return SAME_SENTENCES
    return SMALL_MARGIN if tied else pair


def _first_within(answers: Sequence[Answer], extreme: float, noise: float) -> Answer:
    return min((answer for answer in answers if abs(answer.value - extreme) <= noise), key=lambda answer: answer.leaf)


def wants_same_length(prompt_id: str, seed: int, iteration: int, share: float) -> bool:
    """Whether this prompt is of the share whose answers must be equally long: a coin that seed, iteration and prompt
    alone decide, whatever else is in the batch."""
    digest = hashlib.sha256(f"same length\0{seed}\0{iteration}\0{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def without_closest(pairs: Sequence[Pair], share: float) -> tuple[list[Pair], list[Pair]]:
    """(kept, left out): the floor(share * n) pairs with the smallest margins go; equal margins by prompt_id."""
    ordered = sorted(pairs, key=lambda pair: pair.prompt_id)
    order = tolerant_order([pair.margin for pair in ordered], descending=False)
    # 1e-9: 0.2 * 15 is a little less than 3.
    gone = set(order[: math.floor(share * len(ordered) + 1e-9)])
    kept = [pair for index, pair in enumerate(ordered) if index not in gone]
    return kept, [ordered[index] for index in sorted(gone)]
