"""From which figures something is claimed, and the correction of their p for being many."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

from csr_core.evaluation.benchmarks.mme import SUBTASKS as MME_SUBTASKS
from csr_core.evaluation.resampling import holm

# Figures that describe or watch, or cut the same answers another way: nothing is claimed from them, and they are not in
# the family of hypotheses that is corrected together. Every other figure of every split and benchmark is.
DESCRIPTIVE = (
    "words", "repeats", "prior_*", "relevance", "relevance_total", "held_out_relevance", "base_nll", "kl",
    "chair_i_control", "*_unclear", "*_unparsed",
    "pope_precision", "pope_recall", "pope_f1", "pope_yes_ratio", "pope_accuracy_*",
    "unparsed", "unjudged", "accuracy_*", "score_*", "relative_score_*", "vanilla_accuracy", *MME_SUBTASKS,
)  # fmt: skip
LOWER_IS_BETTER = ("chair_i", "chair_s")


def correct(metrics: Mapping[str, Mapping[str, dict[str, Any]]]) -> None:
    """Add `p_holm` to the comparisons in {split: figures}: Holm's correction over all splits and benchmarks.

    The family of hypotheses: one model against one other (`vs_base`, say), every figure that is not DESCRIPTIVE of
    every split. Comparisons without a p, as in older files, are left as they are.
    """
    families: dict[str, list[dict[str, Any]]] = {}
    for figures in metrics.values():
        for name, entry in figures.items():
            if not is_descriptive(name):
                for key in [key for key in entry if key.startswith("vs_") and "p" in entry[key]]:
                    families.setdefault(key, []).append(entry[key])
    for family in families.values():
        for comparison, p in zip(family, holm([comparison["p"] for comparison in family]), strict=True):
            comparison["p_holm"] = p


def is_descriptive(name: str) -> bool:
    """Whether the figure `name` is outside the family of hypotheses."""
    return any(fnmatch(name, pattern) for pattern in DESCRIPTIVE)
