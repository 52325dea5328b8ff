"""Sentences, the truncation control and companions, by hand."""

import pytest

from csr_core.evaluation.chair import chair
from csr_core.evaluation.priors import prior_item, repeats
from csr_core.evaluation.statistics import measure
from csr_core.evaluation.truncation import control_at_recall, control_points, truncate
from csr_core.search.sentences import split_sentences

TRUTH = {1: {"dog", "bench"}, 2: {"cat", "cup"}}
CAPTIONS = [
    {"image_id": 1, "caption": "There is a dog. There is a bird. There is a bench."},
    {"image_id": 2, "caption": "There is a cat. There is a fork."},
]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("A dog. A cat.", ["A dog.", "A cat."]),
        ("It is 3.5 m long. Mr. Smith sees it!", ["It is 3.5 m long.", "Mr. Smith sees it!"]),
        ('He says "stop." Then he goes', ['He says "stop."', "Then he goes"]),
        ("One\n\nTwo", ["One", "Two"]),
        ("  ", []),
    ],
)
def test_sentences(text, parts):
    assert split_sentences(text) == parts


def test_truncate():
    assert truncate("A dog. A cat. A cow.", 2) == "A dog. A cat."


def test_control_by_hand():
    """k = 1: dog; cat                     -> 0 of 2 mentions wrong, 2 of 4 objects found
    k = 2: dog bird; cat fork            -> 2 of 4 wrong,          2 of 4
    k = 3: dog bird bench; cat fork      -> 2 of 5 wrong,          3 of 4
    """
    points = control_points(chair(CAPTIONS, TRUTH).scores)
    assert [point.as_dict() for point in points] == [
        {"k": 1, "chair_i": 0.0, "recall": 0.5},
        {"k": 2, "chair_i": 0.5, "recall": 0.5},
        {"k": 3, "chair_i": 0.4, "recall": 0.75},
    ]


@pytest.mark.parametrize(
    ("recall", "chair_i"),
    [
        (0.625, 2 / 4.5),  # half of the way from k = 2 to k = 3: (2 + 2)/2 wrong of (4 + 5)/2 mentions
        (0.75, 2 / 5),  # whole captions
        (0.9, 2 / 5),  # more than the control ever finds
        (0.1, 0.0),  # less than its first sentence
    ],
)
def test_control_at_recall(recall, chair_i):
    control = control_at_recall(control_points(chair(CAPTIONS, TRUTH).scores), recall)
    assert measure(control, resamples=100)["chair_i_control"].value == pytest.approx(chair_i)


def test_priors_by_hand():
    """Trigger dog -> bench, cat -> cup. Companion absent: image 1 (bench named), 2 (not named) -> 1/2; cat of
    image 2 has its cup (named) -> 1/1. Image 3 has no trigger and does not count.
    """
    truth = {1: {"dog"}, 2: {"dog", "cat", "cup"}, 3: {"bench"}}
    captions = [
        {"image_id": 1, "caption": "A dog on a bench."},
        {"image_id": 2, "caption": "A cat and a cup."},
        {"image_id": 3, "caption": "A bench."},
    ]
    companions = {"dog": "bench", "cat": "cup"}
    figures = measure([prior_item(score, companions) for score in chair(captions, truth).scores], resamples=100)
    assert (figures["prior_absent"].value, figures["prior_absent"].n) == (0.5, 2)
    assert (figures["prior_present"].value, figures["prior_present"].n) == (1.0, 1)


def test_repeats_by_hand():
    """ "A dog." comes three times: two repeats among five sentences. A repeat in another answer is none."""
    assert repeats(["A dog. A cat. A dog. A dog.", "A dog."]) == (2, 5)
