"""SEED-Bench (Li et al. 2023, arXiv 2307.16125), its questions on single pictures: four options, accuracy.

An answer is right when it is the letter, as in `scripts/convert_seed_for_submission.py` of LLaVA; anything that is no
letter of an option is unparsed, and counts as wrong.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from csr_core.errors import InputError
from csr_core.evaluation.benchmarks.common import (
    SHORT_TOKENS,
    Question,
    Reading,
    accuracy_item,
    file_of,
    missing_fields,
    with_options,
)
from csr_core.evaluation.statistics import Item

TITLE = "SEED-Bench: pictures"
SOURCE = "https://huggingface.co/datasets/AILab-CVC/SEED-Bench"
FILES = {
    "SEED-Bench.json": "the questions, from there",
    "SEED-Bench-image": "the pictures, unpacked from SEED-Bench-image.zip there",
}

_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")
_FIELDS = ("question_id", "data_id", "question", "answer", "question_type_id", *_CHOICES)


def read(folder: Path) -> Reading:
    """`SEED-Bench.json` ({questions, question_type}) and the folder `SEED-Bench-image`; videos are passed over."""
    file = file_of(folder, "SEED-Bench.json")
    data = json.loads(file.read_text("utf-8"))
    if not isinstance(data, dict) or not isinstance(data.get("questions"), list):
        raise InputError(f"{file}: expected an object with `questions` and `question_type`: is it SEED-Bench's?")
    names = {number: name for name, number in data.get("question_type", {}).items()}
    found = Reading()
    for number, row in enumerate(data["questions"], 1):
        if isinstance(row, dict) and row.get("data_type") != "image":
            continue
        if reason := missing_fields(row, _FIELDS):
            found.drop(f"row {number}", reason)
            continue
        picture = str(row["data_id"])
        facts = {"answer": row["answer"], "group": names.get(row["question_type_id"], str(row["question_type_id"]))}
        prompt = with_options(row["question"], [str(row[name]) for name in _CHOICES])
        image = _picture(folder / "SEED-Bench-image", picture)
        found.questions.append(Question(str(row["question_id"]), picture, image, prompt, SHORT_TOKENS, facts))
    return found


def _picture(folder: Path, name: str) -> Path:
    """The pictures have no ending where they were unpacked as they came."""
    return next(
        (folder / f"{name}{end}" for end in ("", ".jpg", ".png") if (folder / f"{name}{end}").is_file()), folder / name
    )


def score(questions: Sequence[Question], answers: Mapping[str, str]) -> list[Item]:
    """An item an answer: `accuracy`, also by evaluation dimension, and `unparsed`."""
    return [
        accuracy_item(
            question,
            answers[question.key].strip() == question.facts["answer"],
            answers[question.key].strip() not in ("A", "B", "C", "D"),
            [question.facts["group"]],
        )
        for question in questions
        if question.key in answers
    ]
