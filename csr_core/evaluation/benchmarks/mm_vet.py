"""MM-Vet (Yu et al. 2023, arXiv 2308.02490): 218 open questions, each answer's correctness told by a judge, 0 to 1.

The judge's instructions with their examples are read from the official `mm-vet_evaluator.py` (its text `prompt`;
nothing of it is run). One departure: an answer that the judge cannot be brought to rate is missing, not 0.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csr_core.errors import InputError
from csr_core.evaluation.benchmarks.common import LONG_TOKENS, Question, Reading, file_of, judged_item, missing_fields
from csr_core.evaluation.judge import Request
from csr_core.evaluation.statistics import Item

TITLE = "MM-Vet (needs a judge)"
SOURCE = "https://github.com/yuweihao/MM-Vet (mm-vet.zip of its releases)"
FILES = {
    "mm-vet.json": "from mm-vet.zip",
    "images": "from mm-vet.zip",
    "mm-vet_evaluator.py": "of the repository: what the judge is told is read from it",
}


def read(folder: Path) -> Reading:
    """`mm-vet.json` ({key: {imagename, question, answer, capability}}), `images/` and `mm-vet_evaluator.py`."""
    instructions = _instructions(file_of(folder, "mm-vet_evaluator.py"))
    found = Reading()
    for key, row in json.loads(file_of(folder, "mm-vet.json").read_text("utf-8")).items():
        if reason := missing_fields(row, ("imagename", "question", "answer", "capability")):
            found.drop(key, reason)
            continue
        facts = {name: row[name] for name in ("question", "answer", "capability")} | {"instructions": instructions}
        picture = str(row["imagename"])
        image = folder / "images" / picture
        found.questions.append(Question(str(key), picture, image, str(row["question"]), LONG_TOKENS, facts))
    return found


def _instructions(file: Path) -> str:
    """The text that the module names `prompt`."""
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if "prompt" in names and isinstance(node.value.value, str):
                return node.value.value
    raise InputError(f"{file} has no text named `prompt`: expected MM-Vet's own evaluator")


def judge_request(question: Question, answer: str) -> Request:
    """What the judge is asked: the instructions, and a last row of their table to be completed."""
    facts = question.facts
    truth = facts["answer"].replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    row = " | ".join((facts["question"], truth, answer, ""))
    messages = (("user", f"{facts['instructions']}\n{row}"),)
    return Request.of(messages, fixed=(facts["instructions"],), temperature=0.0, max_tokens=3)


def read_judgement(content: str) -> float | None:
    """The number from 0 to 1 that the judge begins with; None where there is none."""
    try:
        correctness = float(content.split()[0])
    except (ValueError, IndexError):
        return None
    return correctness if 0 <= correctness <= 1 else None


def score(
    questions: Sequence[Question], answers: Mapping[str, str], judgements: Mapping[str, Any] | None = None
) -> list[Item]:
    """An item an answer: `score`, also by capability, where it was judged; `unjudged` and `unparsed` (empty).

    `judgements`: a question's key -> what `read_judgement` gave.
    """
    items = []
    for question in questions:
        if question.key in answers:
            found = (judgements or {}).get(question.key)
            rated = None if found is None else (float(found), 1.0)
            items.append(judged_item(question, answers[question.key], "score", rated, question.facts["capability"]))
    return items
