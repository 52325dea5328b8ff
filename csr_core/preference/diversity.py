"""What the pairs look like: lengths, variety of words, how far chosen and rejected are apart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import chain
from typing import Any

from csr_core.preference.pairs import Pair

BINS = 10


def diversity_report(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Figures on the pairs (at least one): the first thing to look at when answers shrink or grow alike."""
    chosen, rejected = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
    return {
        **text_report([answer.text for answer in chosen], [answer.text for answer in rejected]),
        "sentences": {
            "chosen": _mean(len(answer.sentences) for answer in chosen),
            "rejected": _mean(len(answer.sentences) for answer in rejected),
        },
        "margin": margin_report([pair.margin for pair in pairs]),
    }


def text_report(chosen_texts: Sequence[str], rejected_texts: Sequence[str]) -> dict[str, Any]:
    """What the texts of pairs (at least one) alone tell."""
    chosen, rejected = ([text.split() for text in texts] for texts in (chosen_texts, rejected_texts))
    return {
        "words": {"chosen": _mean(len(words) for words in chosen), "rejected": _mean(len(words) for words in rejected)},
        "rejected_longer": _mean(len(bad) > len(good) for good, bad in zip(chosen, rejected, strict=True)),
        "distinct_ngrams": {
            "chosen": {str(n): distinct_ngrams(chosen, n) for n in (1, 2, 3)},
            "rejected": {str(n): distinct_ngrams(rejected, n) for n in (1, 2, 3)},
        },
        "edit_distance": _mean(word_distance(good, bad) for good, bad in zip(chosen, rejected, strict=True)),
    }


def margin_report(margins: Sequence[float]) -> dict[str, Any]:
    return {"mean": _mean(margins), "median": statistics.median(margins), "histogram": histogram(margins)}


def _mean(values: Any) -> float:
    return statistics.fmean(float(value) for value in values)


def distinct_ngrams(texts: Sequence[Sequence[str]], n: int) -> float:
    """Distinct n-grams of words / all n-grams over all texts (distinct-n); 0 where there are none."""
    grams = list(chain.from_iterable(zip(*(words[start:] for start in range(n)), strict=False) for words in texts))
    return len(set(grams)) / len(grams) if grams else 0.0


def word_distance(first: Sequence[str], second: Sequence[str]) -> float:
    """How much of two texts differs, in words: 1 - 2 * matched / (both lengths); 0 equal, 1 nothing in common."""
    return 1.0 - SequenceMatcher(None, first, second, autojunk=False).ratio()


def histogram(values: Sequence[float], bins: int = BINS) -> dict[str, list[Any]]:
    """{edges: bins + 1 numbers from least to greatest, counts: bins numbers}; one bin where all are equal."""
    low, high = min(values), max(values)
    if high <= low:
        return {"edges": [low, high], "counts": [len(values)]}
    counts = [0] * bins
    for value in values:
        counts[min(int((value - low) / (high - low) * bins), bins - 1)] += 1
    return {"edges": [low + (high - low) * step / bins for step in range(bins + 1)], "counts": counts}
