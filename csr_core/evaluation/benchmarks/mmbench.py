"""MMBench dev (Liu et al. 2023, arXiv 2307.06281): options in every rotation, all of which must be answered rightly.

Circular evaluation: the file asks each item several times with its options rotated; an item is right when each of its
rotations is. Which option an answer means is told by rule: its letter, or the one option whose text it holds. What the
rules cannot tell is unparsed and counts as wrong (the official tool's "exact matching"; otherwise it asks ChatGPT).
"""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from csr_core.errors import InputError
from csr_core.evaluation.benchmarks.common import (
    LONG_TOKENS,
    Question,
    Reading,
    figure_name,
    file_of,
    missing_fields,
    with_options,
)
from csr_core.evaluation.statistics import Counts, Item
from csr_core.images import Embedded

TITLE = "MMBench: dev, circular evaluation"
SOURCE = "https://github.com/open-compass/MMBench"
FILES = {"*.tsv": "mmbench_dev_20230712.tsv, or MMBench_DEV_EN.tsv, from there; the pictures are inside"}

_ROUND = 1_000_000  # rotations of item i have the indices i + 1000000, i + 2000000, ...
_NOTHING = ("", "nan")
_SIGNS = re.compile(r"[.()\[\],:;!*#{}]")


def read(folder: Path) -> Reading:
    """A file of tab-separated `index, question, hint, A, B, C, D, answer, l2-category, image` (base64, or in the newer
    form the index of the row that has it). Each row is one question: one rotation of an item."""
    file = file_of(folder, "mmbench_dev_20230712.tsv", "*[dD][eE][vV]*.tsv", "*.tsv")
    found, pictures = Reading(), {}
    rows = list(_rows(file))
    for row in rows:
        if len(row.get("image") or "") > 64:
            pictures[row["index"]] = row["image"]
    shared: dict[str, Embedded] = {}
    for number, row in enumerate(rows, 1):
        reason = missing_fields(row, ("index", "question", "A", "B", "answer", "image"))
        image = pictures.get(row["index"]) or pictures.get(row.get("image") or "") if not reason else None
        item = int(row["index"]) % _ROUND if not reason and row["index"].isdecimal() else None
        if reason or image is None or item is None:
            found.drop(row.get("index") or f"row {number}", reason or "its index is no number, or it has no picture")
            continue
        try:
            content = base64.b64decode(image, validate=True)
        except (binascii.Error, ValueError) as error:
            found.drop(row["index"], f"its picture is not base64 ({error})")
            continue
        name = f"{file.name}:{hashlib.sha256(content).hexdigest()[:16]}"
        options = _options(row)
        asked = (
            row["question"]
            if (row.get("hint") or "").lower() in (*_NOTHING, "none")
            else f"{row['hint']}\n{row['question']}"
        )
        facts = {"item": item, "answer": row["answer"].strip(), "options": options, "group": row.get("l2-category")}
        picture = shared.setdefault(name, Embedded(name, content))  # kept once for all rotations
        prompt = with_options(asked, list(options.values()))
        found.questions.append(Question(row["index"], name, picture, prompt, LONG_TOKENS, facts))
    _drop_incomplete(found)
    return found


def _drop_incomplete(found: Reading) -> None:
    """Leave out the items that lack a rotation: they would be easier than the others."""
    rotations = Counter(question.facts["item"] for question in found.questions)
    whole = []
    for question in found.questions:
        options, there = len(question.facts["options"]), rotations[question.facts["item"]]
        if there < options:
            found.drop(question.key, f"{there} of its {options} rotations can be used: is the file made for them?")
        else:
            whole.append(question)
    found.questions = whole


def _rows(file: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # a picture is one field
    with file.open(encoding="utf-8", newline="") as lines:
        table = csv.DictReader(lines, delimiter="\t")
        if not {"index", "question", "A", "answer", "image"} <= set(table.fieldnames or ()):
            raise InputError(
                f"{file}: expected the columns index, question, A, B, answer, image; got {table.fieldnames}. The dev "
                "split has them; the test split has no answers"
            )
        yield from table


def _options(row: Mapping[str, str | None]) -> dict[str, str]:
    options: dict[str, str] = {}
    for letter in "ABCD":
        text = row.get(letter)
        if text is None or text.lower() in _NOTHING:  # but "None" can be an option
            break
        options[letter] = text
    return options


def read_answer(text: str, options: Mapping[str, str]) -> str:
    """The letter of the option that is meant; "" where the rules cannot tell.

    One option's letter as a word of its own (an "A" in more than three words is an article), else the one option whose
    text is in the answer, unless the answer is more than twice as long as all options together.
    """
    words = _SIGNS.sub(" ", text).split()
    letters = [letter for letter in options if letter in words]
    if len(letters) == 1 and not (letters == ["A"] and len(words) > 3):
        return letters[0]
    if len(text) > 2 * sum(map(len, options.values())):
        return ""
    held = [letter for letter, option in options.items() if option.lower() in text.lower()]
    return held[0] if len(held) == 1 else ""


def score(questions: Sequence[Question], answers: Mapping[str, str]) -> list[Item]:
    """An item an item of the benchmark whose rotations all have answers: `accuracy` (circular), also by ability,
    `vanilla_accuracy` (as asked first, without rotations), and `unparsed`."""
    rotations: dict[int, list[Question]] = defaultdict(list)
    for question in questions:
        rotations[question.facts["item"]].append(question)
    items = []
    for number, asked in rotations.items():
        asked.sort(key=lambda question: int(question.key))
        if any(question.key not in answers for question in asked):
            continue
        said = [read_answer(answers[question.key], question.facts["options"]) for question in asked]
        right = [letter == question.facts["answer"] for letter, question in zip(said, asked, strict=True)]
        counts: Counts = {"accuracy": (float(all(right)), 1.0), "vanilla_accuracy": (float(right[0]), 1.0)}
        if group := asked[0].facts["group"]:
            counts[f"accuracy_{figure_name(group)}"] = counts["accuracy"]
        counts["unparsed"] = (float(said.count("")), float(len(said)))
        items.append(Item(number, asked[0].picture, counts))
    return items
