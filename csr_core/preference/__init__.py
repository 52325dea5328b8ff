"""From scored trees to pairs of a chosen and a rejected answer."""

from csr_core.preference.diversity import diversity_report
from csr_core.preference.pairs import Pair, pair_of_tree, wants_same_length, without_closest
from csr_core.preference.paths import Answer, complete_answers

__all__ = [
    "Answer",
    "Pair",
    "complete_answers",
    "diversity_report",
    "pair_of_tree",
    "wants_same_length",
    "without_closest",
]
