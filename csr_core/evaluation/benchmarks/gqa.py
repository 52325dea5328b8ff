"""GQA (Hudson and Manning 2019, arXiv 1902.09506), testdev balanced: share of answers equal to the one of the file.

As `scripts/convert_gqa_for_eval.py` of LLaVA and GQA's own `eval.py` have it: lower case, no full stop at the end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from csr_core.errors import InputError
from csr_core.evaluation.benchmarks.common import (
    SHORT,
    SHORT_TOKENS,
    Question,
    Reading,
    accuracy_item,
    file_of,
    missing_fields,
)
from csr_core.evaluation.statistics import Item

TITLE = "GQA: testdev balanced"
SOURCE = "https://cs.stanford.edu/people/dorarad/gqa/download.html"
FILES = {
    "testdev_balanced_questions.json": "of questions1.2.zip, from there",
    "images": "the pictures of images.zip there; those of testdev (398) are enough",
}


def read(folder: Path) -> Reading:
    """`testdev_balanced_questions.json` ({question id: {imageId, question, answer, ...}}) and `images/ID.jpg`."""
    file = file_of(folder, "testdev_balanced_questions.json")
    data = json.loads(file.read_text("utf-8"))
    if not isinstance(data, dict):
        raise InputError(
            f"{file}: expected an object of questions by their id, got {type(data).__name__}: is it GQA's?"
        )
    found = Reading()
    for key, row in data.items():
        if reason := missing_fields(row, ("imageId", "question", "answer")):
            found.drop(key, reason)
            continue
        picture = str(row["imageId"])
        facts = {"answer": str(row["answer"])}
        image, prompt = folder / "images" / f"{picture}.jpg", f"{row['question']}\n{SHORT}"
        found.questions.append(Question(str(key), picture, image, prompt, SHORT_TOKENS, facts))
    return found


def score(questions: Sequence[Question], answers: Mapping[str, str]) -> list[Item]:
    """An item an answer: `accuracy`, and `unparsed` where nothing was said."""
    items = []
    for question in questions:
        if question.key in answers:
            said = answers[question.key].rstrip(".").lower()
            items.append(accuracy_item(question, said == question.facts["answer"], not said.strip()))
    return items
