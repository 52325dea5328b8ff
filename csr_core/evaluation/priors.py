"""Is an object named because it is there, or because another one usually brings it along?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from csr_core.evaluation.chair import CaptionScore
from csr_core.evaluation.statistics import Item
from csr_core.search.sentences import split_sentences


def prior_item(score: CaptionScore, companions: Mapping[str, str]) -> Item:
    """Counts of p(companion named | trigger in the picture, companion not) and p(... | both in it).

    `companions` maps each trigger to its companion, by category. A picture with several triggers counts each pair.
    """
    named = set(score.mentions)
    counts = {}
    for figure, present in (("prior_absent", False), ("prior_present", True)):
        asked = [c for t, c in companions.items() if t in score.truth and (c in score.truth) == present]
        if asked:
            counts[figure] = (float(sum(c in named for c in asked)), float(len(asked)))
    return Item(score.key, score.image_id, counts)


def repeats(texts: Sequence[str]) -> tuple[int, int]:
    """(sentences that repeat an earlier one of the same text exactly, sentences) over `texts`."""
    repeated = total = 0
    for text in texts:
        parts = split_sentences(text)
        total += len(parts)
        repeated += len(parts) - len(set(parts))
    return repeated, total
