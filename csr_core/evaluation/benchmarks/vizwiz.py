"""VizWiz-VQA val (Gurari et al. 2018, arXiv 1802.08218): questions of blind people, ten answers each.

An answer's accuracy is the mean, over each nine of the ten answers, of min(equal answers / 3, 1). As in the official
evaluation the model's answer is normalised by the rules of the VQA challenge, and people's answers are taken as they
are in the file.
"""

from __future__ import annotations

import json
import re
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

UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."

TITLE = "VizWiz-VQA: val"
SOURCE = "https://vizwiz.org/tasks-and-datasets/vqa/"
FILES = {
    "val.json": "of Annotations.zip, from there",
    "val": "the pictures of val.zip there",
}

_NUMBERS = ("none", "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(max(place - 1, 0)) for place, word in enumerate(_NUMBERS)}
_ARTICLES = ("a", "an", "the")
_MARKS = ';/[]"{}()=+\\_-><@`,?!'
# Short forms whose one missing apostrophe is put back; "id", "ill", "its", "well" and "were" are words of their own.
_SHORT_FORMS = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've "
    "we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've "
    "you'll you're you've"
)
_APOSTROPHES = {
    form[:place] + form[place + 1 :]: form
    for form in _SHORT_FORMS.split()
    for place, sign in enumerate(form)
    if sign == "'"
}


def read(folder: Path) -> Reading:
    """`val.json` (a list of {image, question, answers: [{answer}], answer_type}) and the pictures in `val/`."""
    file = file_of(folder, "val.json")
    data = json.loads(file.read_text("utf-8"))
    if not isinstance(data, list):
        raise InputError(f"{file}: expected a list of questions, got {type(data).__name__}: is it VizWiz's?")
    found = Reading()
    for number, row in enumerate(data, 1):
        reason = missing_fields(row, ("image", "question", "answers"))
        if not reason and len(row["answers"]) < 2:
            reason = "has fewer than two answers to compare with: is it of the test split, whose answers are kept back?"
        if reason:
            found.drop(f"row {number}", reason)
            continue
        name = str(row["image"])
        facts = {"answers": [str(one["answer"]) for one in row["answers"]], "group": str(row.get("answer_type") or "")}
        prompt = f"{row['question']}\n{UNANSWERABLE}\n{SHORT}"
        found.questions.append(Question(name, name, folder / "val" / name, prompt, SHORT_TOKENS, facts))
    return found


def normalised(text: str) -> str:
    """The VQA challenge's form of an answer: marks out or to spaces, lower case, digits for number words to ten, no
    articles, apostrophes in short forms.

    A mark goes without a trace where a space is beside one of its kind, or anywhere if the text has a comma in a
    number; otherwise a space takes its place. Full stops go unless a digit follows.
    """
    given = text = text.replace("\n", " ").replace("\t", " ").strip()
    comma = re.search(r"\d,\d", given)
    for mark in _MARKS:
        beside = f"{mark} " in given or f" {mark}" in given
        text = text.replace(mark, "" if beside or comma else " ")
    words = [_DIGITS.get(word, word) for word in re.sub(r"\.(?!\d)", "", text).lower().split()]
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


def agreement(said: str, answers: Sequence[str]) -> float:
    """Mean over leaving each of the people's answers out of min(number of the others equal to `said` / 3, 1)."""
    equal = [answer == said for answer in answers]
    return sum(min((sum(equal) - one) / 3, 1.0) for one in equal) / len(equal)


def score(questions: Sequence[Question], answers: Mapping[str, str]) -> list[Item]:
    """An item an answer: `accuracy`, also by the type of answer, and `unparsed` where nothing is left of it."""
    items = []
    for question in questions:
        if question.key in answers:
            said = normalised(answers[question.key])
            groups = [question.facts["group"]] if question.facts["group"] else []
            items.append(accuracy_item(question, agreement(said, question.facts["answers"]), not said, groups))
    return items
