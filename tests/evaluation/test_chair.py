"""CHAIR by hand, and against the published figures."""

import json
from pathlib import Path

import pytest

from csr_core.evaluation.chair import chair, fold_references
from csr_core.evaluation.cli import evaluate_chair
from csr_core.evaluation.statistics import measure

PUBLISHED = Path(__file__).resolve().parents[2] / "../shared/data/chair"
TRUTH = {1: {"dog", "bench"}, 2: {"cat"}, 3: {"person", "bicycle", "car"}}


def test_by_hand():
    """Image 1: dog, dog, bird       -> 3 mentions, 1 hallucinated, 1 of 2 objects found
    image 2: cat                   -> 1 mention,  0 hallucinated, 1 of 1
    image 3: man, fork, cups       -> 3 mentions, 2 hallucinated, 1 of 3
    CHAIR_i = 3/7, CHAIR_s = 2/3, recall = 3/6, words = (8 + 3 + 5)/3.
    """
    captions = [
        {"image_id": 1, "caption": "A dog, a big dog and a bird."},
        {"image_id": 2, "caption": "A small cat."},
        {"image_id": "000003", "caption": "A man, fork, two cups."},
    ]
    result = chair(captions, TRUTH)
    assert [score.hallucinated for score in result.scores] == [("bird",), (), ("fork", "cup")]
    figures = measure([score.item() for score in result.scores])
    assert figures["chair_i"].value == pytest.approx(3 / 7)
    assert figures["chair_s"].value == pytest.approx(2 / 3)
    assert figures["recall"].value == pytest.approx(3 / 6)
    assert figures["words"].value == pytest.approx((8 + 3 + 5) / 3)
    assert figures["chair_i"].n == 3


def test_nothing_mentioned_is_no_hallucination():
    figures = measure([score.item() for score in chair([{"image_id": 1, "caption": "Nice weather."}], TRUTH).scores])
    assert figures["chair_i"].value == figures["chair_s"].value == figures["recall"].value == 0


def test_bad_rows_are_left_out_and_named():
    rows = [
        {"image_id": 9, "caption": "A dog."},
        {"image_id": 1},
        {"caption": "x"},
        {"image_id": 2, "caption": "A cat."},
    ]
    result = chair(rows, TRUTH)
    assert [score.image_id for score in result.scores] == [2]
    assert [item["prompt_id"] for item in result.left_out] == ["9", "1", "None"]
    assert "no picture 9" in result.left_out[0]["reason"]
    assert "row 2" in result.left_out[1]["reason"]


def test_reference_captions_add_objects():
    folded = fold_references(TRUTH, {1: ["A puppy with a frisbee"], 7: ["A bus"]})
    assert folded == {1: {"dog", "bench", "frisbee"}, 2: {"cat"}, 3: {"person", "bicycle", "car"}}
    assert TRUTH[1] == {"dog", "bench"}


@pytest.mark.skipif(
    not PUBLISHED.is_dir(),
    reason="needs the published captions of ../shared/data/chair, which are not part of this repository",
)
@pytest.mark.parametrize("model", ["1_minigpt-4", "2_llava"])
def test_published_figures(model):
    """Within 0.3 points is asked for; 0.01 is met: of 14,473 mentions 3 differ, of 9,955 one."""
    result = evaluate_chair(PUBLISHED / f"captions-{model}.jsonl", PUBLISHED / "instances.json")
    expected = json.loads((PUBLISHED / "expected.json").read_text())[model]
    assert result["chair_i"]["n"] == expected["n"]
    for name, figure in (("chair_s", "CHAIRs"), ("chair_i", "CHAIRi"), ("recall", "Recall")):
        assert result[name]["value"] == pytest.approx(expected[figure], abs=1e-4)
        assert result[name]["low"] < expected[figure] < result[name]["high"]
