"""Wrong files are told apart, and said to be wrong where they are."""

import json
import logging

import pytest

from csr_core.errors import InputError
from csr_core.evaluation.cli import evaluate_chair, evaluate_pope, format_table

INSTANCES = {
    "images": [{"id": 1, "file_name": "1.jpg"}, {"id": 2, "file_name": "2.jpg"}],
    "categories": [{"id": 18, "name": "dog"}, {"id": 6, "name": "bus"}],
    "annotations": [{"image_id": 1, "category_id": 18}, {"image_id": 2, "category_id": 6}],
}


@pytest.fixture
def files(tmp_path):
    captions, instances = tmp_path / "captions.jsonl", tmp_path / "instances.json"
    captions.write_text('{"image_id": 1, "caption": "A dog."}\n\n{"image_id": 2, "caption": "A bus and a cat."}\n')
    instances.write_text(json.dumps(INSTANCES))
    return captions, instances


def test_chair_of_a_subset_of_categories(files):
    """Mentions dog; bus, cat: 1 of 3 hallucinated. With reference captions the cat is there."""
    result = evaluate_chair(*files)
    assert result["chair_i"]["value"] == pytest.approx(1 / 3)
    assert result["recall"]["value"] == 1
    assert set(result["chair_i"]) == {"value", "low", "high", "n"}
    references = files[0].with_name("references.json")
    references.write_text(json.dumps({"annotations": [{"image_id": 2, "caption": "A kitten"}]}))
    assert evaluate_chair(*files, references)["chair_i"]["value"] == 0
    assert "33.33" in format_table(result)


def test_published_reading_can_be_chosen(files):
    assert evaluate_chair(*files, published=True)["recall"]["value"] == 0.5


def test_left_out_rows_are_reported(files, caplog):
    files[0].write_text(files[0].read_text() + '{"image_id": 7, "caption": "A dog."}\n{"image_id": 1}\n')
    with caplog.at_level(logging.WARNING):
        assert evaluate_chair(*files)["chair_i"]["n"] == 2
    assert "2 captions left out" in caplog.text
    assert "no picture 7" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"image_id": 1, "caption": "A dog."}\n{"image_id": 2, "capt', "line 2: broken JSON"),
        ('{"id": 1, "text": "A dog."}\n', "no row has 'image_id'"),
        ("", "holds no rows"),
        ('{"image_id": 9, "caption": "A dog."}\n', "none of the captions"),
    ],
)
def test_wrong_captions(files, content, message):
    files[0].write_text(content)
    with pytest.raises(InputError, match=message):
        evaluate_chair(*files)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": None}, "COCO's instances format"),
        ({"annotations": [{"image_id": 1}]}, "entry 1 of 'annotations' lacks"),
        ({"annotations": [{"image_id": 1, "category_id": 99}]}, "category_id 99"),
        ({"categories": [{"id": 18, "name": "unicorn"}]}, "unicorn"),
    ],
)
def test_wrong_instances(files, change, message):
    files[1].write_text(json.dumps(INSTANCES | change))
    with pytest.raises(InputError, match=message):
        evaluate_chair(*files)


def _questions_like(file):
    other = file.with_name("other.json")
    other.write_text('{"questions": []}')
    return other


def test_missing_and_mixed_up_files(files):
    with pytest.raises(InputError, match="found none"):
        evaluate_chair(files[0].with_name("nothing.jsonl"), files[1])
    with pytest.raises(InputError, match="line 3: broken JSON"):
        evaluate_chair(files[1], files[0])
    with pytest.raises(InputError, match="COCO's captions format"):
        evaluate_chair(*files, reference_captions=_questions_like(files[0]))


def test_wrong_pope_files(tmp_path):
    answers, questions = tmp_path / "answers.jsonl", tmp_path / "questions.jsonl"
    answers.write_text('{"question_id": 1, "text": "Yes"}\n')
    questions.write_text('{"question_id": 1, "image": "1.jpg", "text": "Is there a dog?", "label": "yes"}\n')
    assert evaluate_pope(answers, [questions])["pope_accuracy"]["value"] == 1
    answers.write_text('{"question_id": 5, "text": "Yes"}\n')
    with pytest.raises(InputError, match="no question has an answer"):
        evaluate_pope(answers, [questions])
    with pytest.raises(InputError, match="'label'"):
        evaluate_pope(answers, [answers])
    answers.write_text('{"question_id": 5}\n')
    with pytest.raises(InputError, match="'answer' or 'text'"):
        evaluate_pope(answers, [questions])
