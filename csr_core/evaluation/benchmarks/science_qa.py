"""ScienceQA-IMG (Lu et al. 2022, arXiv 2209.09513): the test questions that have a picture; options, accuracy.

Asked in the form "CQM-A" of LLaVA (context, question, options in brackets); the letter is read as in LLaVA's
`llava/eval/eval_science_qa.py`. An answer without a letter is unparsed and counts as wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from csr_core.evaluation.benchmarks.common import (
    LETTER,
    LETTERS,
    LONG_TOKENS,
    Question,
    Reading,
    accuracy_item,
    file_of,
    missing_fields,
)
from csr_core.evaluation.statistics import Item

TITLE = "ScienceQA: test questions with a picture"
SOURCE = "https://github.com/lupantech/ScienceQA (data/scienceqa, and the pictures by its download script)"
FILES = {
    "problems.json": "from there",
    "pid_splits.json": "from there",
    "images/test": "the pictures of the test split, ID/image.png",
}

_SAID = re.compile(r"The answer is ([A-E])")


def read(folder: Path) -> Reading:
    """`problems.json` ({id: {question, choices, answer, hint, image, ...}}), `pid_splits.json`, `images/test/ID/`."""
    problems = json.loads(file_of(folder, "problems.json").read_text("utf-8"))
    chosen = json.loads(file_of(folder, "pid_splits.json").read_text("utf-8"))["test"]
    found = Reading()
    for key in chosen:
        row = problems.get(str(key))
        if reason := missing_fields(row, ("question", "choices", "answer")):
            found.drop(key, reason)
        elif row.get("image"):
            image = folder / "images/test" / str(key) / row["image"]
            facts = {"answer": LETTERS[int(row["answer"])], "options": LETTERS[: len(row["choices"])]}
            found.questions.append(Question(str(key), str(key), image, _prompt(row), LONG_TOKENS, facts))
    return found


def _prompt(row: Mapping[str, object]) -> str:
    choices = row["choices"]
    assert isinstance(choices, list)
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    context = str(row.get("hint") or "").strip() or "N/A"
    text = f"Context: {context}\nQuestion: {row['question']}\nOptions: {options}"
    return text.replace("  ", " ").strip() + "\n" + LETTER


def read_answer(text: str) -> str:
    """The letter: alone, before a full stop and a space at the beginning, or behind "The answer is"; "" for none."""
    text = text.replace("\n", ". ")
    if text.strip() in tuple("ABCDE"):
        return text.strip()
    if re.match(r"[A-E]\. ", text):
        return text[0]
    said = _SAID.search(text)
    return said[1] if said else ""


def score(questions: Sequence[Question], answers: Mapping[str, str]) -> list[Item]:
    """An item an answer: `accuracy`, and `unparsed` where it names no option of the question."""
    items = []
    for question in questions:
        if question.key in answers:
            said = read_answer(answers[question.key])
            unparsed = not said or said not in question.facts["options"]
            items.append(accuracy_item(question, said == question.facts["answer"], unparsed))
    return items
