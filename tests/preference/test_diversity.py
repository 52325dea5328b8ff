import pytest

from csr_core.preference.diversity import distinct_ngrams, diversity_report, histogram, word_distance
from csr_core.preference.pairs import Pair
from csr_core.preference.paths import Answer


def test_distinct_ngrams() -> None:
    texts = [["a", "b", "a", "b"], ["a"]]
    assert distinct_ngrams(texts, 1) == pytest.approx(2 / 5)
    assert distinct_ngrams(texts, 2) == pytest.approx(2 / 3)
    assert distinct_ngrams(texts, 3) == 1.0
    assert distinct_ngrams([["a"]], 3) == 0.0


def test_word_distance() -> None:
    assert word_distance(["a", "b"], ["a", "b"]) == 0.0
    assert word_distance(["a", "b"], ["c"]) == 1.0
    assert word_distance(["a", "b", "c", "d"], ["a", "x", "c", "y"]) == pytest.approx(0.5)


def test_histogram() -> None:
    assert histogram([0.0, 1.0, 9.0, 10.0], bins=2) == {"edges": [0.0, 5.0, 10.0], "counts": [2, 2]}
    assert histogram([3.0, 3.0]) == {"edges": [3.0, 3.0], "counts": [2]}


def test_report() -> None:
    pairs = [
        Pair("p", Answer((1,), "A dog.", ("a dog.",), 3.0), Answer((2, 3), "A cat. A bus.", ("a cat.", "a bus."), 1.0)),
        Pair("q", Answer((1,), "A red dog.", ("a red dog.",), 6.0), Answer((2,), "A cat.", ("a cat.",), 2.0)),
    ]
    report = diversity_report(pairs)
    assert report["words"] == {"chosen": 2.5, "rejected": 3.0}
    assert report["sentences"] == {"chosen": 1.0, "rejected": 1.5}
    assert report["rejected_longer"] == 0.5
    assert report["distinct_ngrams"]["chosen"]["1"] == pytest.approx(3 / 5)
    assert report["edit_distance"] == pytest.approx((2 / 3 + 3 / 5) / 2)
    assert report["margin"]["mean"] == report["margin"]["median"] == 3.0
    assert sum(report["margin"]["histogram"]["counts"]) == 2
