"""POPE (Li et al. 2023, arXiv 2305.10355) with its three official question files; scored by `evaluation/pope.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from csr_core.errors import InputError
from csr_core.evaluation.benchmarks.common import SHORT, SHORT_TOKENS, Question, Reading, missing_fields
from csr_core.evaluation.pope import is_plain, question_item
from csr_core.evaluation.sources import read_questions
from csr_core.evaluation.statistics import Item
from csr_core.images import find_image

TITLE = "POPE: random, popular, adversarial"
SOURCE = "https://github.com/AoiDragon/POPE (output/coco)"
FILES = {
    "*pope*random*.json*": "coco_pope_random.json, from there",
    "*pope*popular*.json*": "coco_pope_popular.json, from there",
    "*pope*adversarial*.json*": "coco_pope_adversarial.json, from there",
    "images": "COCO's val2014 pictures, https://cocodataset.org/#download",
}


def read(folder: Path) -> Reading:
    """`coco_pope_*.json` (lines of {question_id, image, text, label}) and `images/`, COCO's names either way."""
    files = sorted(folder.glob("*pope*.json*"))
    if not files:
        raise InputError(f"expected POPE's files coco_pope_*.json in {folder}, found none: is it the right folder?")
    found = Reading()
    for number, row in enumerate(read_questions(files), 1):
        label = str(row.get("label", "")).strip().lower()
        reason = missing_fields(row, ("question_id", "image", "text"))
        if reason or label not in ("yes", "no"):
            found.drop(f"row {number}", reason or f"expected a label yes or no, got {row.get('label')!r}")
            continue
        category, picture = str(row["category"]), str(row["image"])
        facts = {"category": category, "id": str(row["question_id"]), "label": label}
        image, prompt = find_image(folder / "images", picture), f"{row['text']}\n{SHORT}"
        key = f"{category}/{row['question_id']}"
        found.questions.append(Question(key, picture, image, prompt, SHORT_TOKENS, facts))
    return found


def score(questions: Sequence[Question], answers: Mapping[str, str]) -> list[Item]:
    """An item an answer with POPE's figures, `pope_accuracy`, `pope_f1` and so on; `unparsed` is `pope_unclear`: the
    official rule reads every answer as a yes or a no, and this share is neither plainly."""
    items = []
    for question in questions:
        if question.key in answers:
            facts, text = question.facts, answers[question.key]
            item = question_item((facts["category"], facts["id"]), question.picture, facts["label"] == "yes", text)
            items.append(Item(item.key, item.image, item.counts | {"unparsed": (float(not is_plain(text)), 1.0)}))
    return items
