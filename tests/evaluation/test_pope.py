"""POPE's scoring by hand, and on its own question files."""

import json
from pathlib import Path

import pytest

from csr_core.evaluation.cli import evaluate_pope
from csr_core.evaluation.pope import is_plain, pope, read_answer
from csr_core.evaluation.statistics import measure

POPE = Path(__file__).resolve().parents[2] / "../shared/data/pope"
needs_pope = pytest.mark.skipif(
    not POPE.is_dir(), reason="needs the POPE questions of ../shared/data/pope, which are not part of this repository"
)


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("Yes.", True),
        ("No, there is no dog.", False),
        ("no", False),
        ("NO", True),  # only `No`, `not` and `no` count
        ("There is not one", False),
        ("I see a dog. No cat.", True),  # behind the first full stop
        ("Nothing", True),
        ("No,it is a cat", True),  # commas go, so the word is "Noit"
        ("no\nyes", True),  # split at spaces alone
        ("", True),
    ],
)
def test_read_answer(text, yes):
    assert read_answer(text) is yes


@pytest.mark.parametrize(("text", "plain"), [("Yes", True), (" no. ", True), ("Yes, a dog.", False), ("", False)])
def test_is_plain(text, plain):
    assert is_plain(text) is plain


def questions(*labels, **more):
    return [{"question_id": i, "image": f"{i}.jpg", "label": label, **more} for i, label in enumerate(labels, 1)]


def test_by_hand():
    """Labels y y n n n, answers yes no yes no maybe(= yes): TP 1, FN 1, FP 2, TN 1.
    accuracy 2/5, precision 1/3, recall 1/2, F1 = 2 * 1 / (2 * 1 + 2 + 1) = 2/5, yes-ratio 3/5, unclear 1/5.
    """
    answers = [{"question_id": i, "text": t} for i, t in enumerate(("Yes.", "no", "Yes", "No.", "Maybe"), 1)]
    figures = measure(pope(questions("yes", "yes", "no", "no", "no"), answers).items)
    expected = {
        "accuracy": 2 / 5,
        "precision": 1 / 3,
        "recall": 1 / 2,
        "f1": 2 / 5,
        "yes_ratio": 3 / 5,
        "unclear": 1 / 5,
    }
    assert {name: figure.value for name, figure in figures.items()} == pytest.approx(
        {f"pope_{name}": value for name, value in expected.items()}
    )
    assert figures["pope_f1"].n == 5


def test_repeated_ids_go_by_category_or_by_order():
    asked = questions("yes", "no", category="random") + questions("no", "no", category="popular")
    named = [
        {"question_id": 1, "category": "popular", "answer": "No"},
        {"question_id": 1, "category": "random", "answer": "Yes"},
    ]
    result = pope(asked, named)
    assert {item.key: item.counts["pope_accuracy"][0] for item in result.items} == {
        ("random", "1"): 1,
        ("popular", "1"): 1,
    }
    assert len(result.left_out) == 2  # the questions 2 have no answer
    ordered = [{"question_id": i, "text": t} for i, t in ((1, "Yes"), (2, "No"), (1, "No"), (2, "Yes"))]
    result = pope(asked, ordered)
    assert [item.counts["pope_accuracy"][0] for item in result.items] == [1, 1, 1, 0]
    assert measure(result.items)["pope_accuracy_popular"].value == 0.5
    result = pope(asked, ordered[:3])  # one answer to the two questions 2: whose is it?
    assert [item.key for item in result.items] == [("random", "1"), ("popular", "1")]
    assert "category" in result.left_out[0]["reason"]


def test_bad_rows_are_left_out_and_named():
    asked = [*questions("yes", "no"), {"question_id": 3, "image": "3.jpg", "label": "perhaps"}]
    answers = [{"question_id": 1, "text": "Yes"}, {"question_id": 2}, {"question_id": 8, "text": "No"}]
    result = pope(asked, [*answers, {"question_id": 1, "text": "No"}])
    assert [item.key for item in result.items] == [("", "1")]
    assert sorted(item["prompt_id"] for item in result.left_out) == ["/1", "/2", "/2", "/3", "/8"]


@needs_pope
def test_own_files(tmp_path):
    """All of POPE's files are half yes: always yes is right in half, with precision 1/2, recall 1, F1 2/3."""
    files = sorted(POPE.glob("*.json"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps({"question_id": r["question_id"], "text": "Yes"}) + "\n" for r in rows))
    result = evaluate_pope(file, files)
    values = {name: entry["value"] for name, entry in result.items()}
    assert values["pope_accuracy"] == values["pope_precision"] == pytest.approx(0.5, abs=1e-3)
    assert values["pope_recall"] == values["pope_yes_ratio"] == 1
    assert values["pope_f1"] == pytest.approx(2 / 3, abs=1e-3)
    assert result["pope_accuracy"]["n"] == len(rows)

    file.write_text("".join(json.dumps({"question_id": r["question_id"], "answer": r["label"]}) + "\n" for r in rows))
    result = evaluate_pope(file, files)
    for name in ("accuracy", "precision", "recall", "f1"):
        assert result[f"pope_{name}"]["value"] == result[f"pope_{name}"]["high"] == 1
        assert 0.99 < result[f"pope_{name}"]["low"] < 1  # no mistake on these pictures is no proof for others
    assert result["pope_accuracy_adversarial"]["n"] == 3000
    # one file, one category: its ids are plain
    assert "pope_accuracy_random" not in evaluate_pope(file, files[:1])


@needs_pope
def test_one_file_alone(tmp_path):
    """`no` to everything: accuracy 1/2, no true yes: precision, recall and F1 0 rather than a division by zero."""
    rows = [json.loads(line) for line in (POPE / "coco_pope_popular.json").read_text().splitlines()]
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps({"question_id": r["question_id"], "text": "No."}) + "\n" for r in rows))
    result = evaluate_pope(file, [POPE / "coco_pope_popular.json"])
    assert result["pope_accuracy"]["value"] == pytest.approx(0.5, abs=1e-3)
    assert result["pope_precision"]["value"] == result["pope_f1"]["value"] == result["pope_yes_ratio"]["value"] == 0
    assert result["pope_unclear"]["value"] == 0
