"""LLaVA-Bench in the wild (Liu et al. 2023, arXiv 2304.08485): 60 open questions on 24 pictures, rated by a judge.

The judge rates GPT-4's answer, which is in the benchmark's files, and the model's; the score is the sum of the model's
ratings over that of GPT-4's, as in `llava/eval/summarize_gpt_review.py`. The judge's instructions are read from the
official `rule.json`. Two departures from `eval_gpt_review_bench.py`: a review that cannot be read is missing there and
not -1 : -1, and a context that is one text is not broken into letters.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csr_core.evaluation.benchmarks.common import LONG_TOKENS, Question, Reading, file_of, judged_item, missing_fields
from csr_core.evaluation.judge import Request
from csr_core.evaluation.sources import read_rows
from csr_core.evaluation.statistics import Item

TITLE = "LLaVA-Bench in the wild (needs a judge)"
SOURCE = "https://huggingface.co/datasets/liuhaotian/llava-bench-in-the-wild"
FILES = {
    "questions.jsonl": "from there",
    "context.jsonl": "from there",
    "answers_gpt4.jsonl": "from there",
    "rule.json": "llava/eval/table/rule.json of https://github.com/haotian-liu/LLaVA: what the judge is told",
    "images": "from there",
}

_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."


def read(folder: Path) -> Reading:
    """`questions.jsonl` (question_id, image, text, category), `context.jsonl` (image, caption), `answers_gpt4.jsonl`
    (question_id, text), `rule.json` ({llava_bench_CATEGORY: {role, prompt}}) and `images/`."""
    contexts = {row["image"]: row["caption"] for row in read_rows(folder / "context.jsonl", ("image", "caption"))}
    references = {
        str(row["question_id"]): row["text"]
        for row in read_rows(folder / "answers_gpt4.jsonl", ("question_id", "text"))
    }
    rules = json.loads(file_of(folder, "rule.json").read_text("utf-8"))
    found = Reading()
    for number, row in enumerate(read_rows(folder / "questions.jsonl", ("question_id", "image", "text")), 1):
        if reason := missing_fields(row, ("question_id", "image", "text", "category")):
            found.drop(row.get("question_id", f"row {number}"), reason)
            continue
        key, picture, rule = str(row["question_id"]), str(row["image"]), rules.get(f"llava_bench_{row['category']}")
        if rule is None or picture not in contexts or key not in references:
            lacking = (
                "rule.json" if rule is None else "context.jsonl" if picture not in contexts else "answers_gpt4.jsonl"
            )
            found.drop(key, f"{lacking} has nothing for it: are the files of one version?")
            continue
        context = contexts[picture]
        facts = {"text": row["text"], "group": row["category"], "rule": rule, "reference": references[key]}
        facts["context"] = context if isinstance(context, str) else "\n".join(context)
        image = folder / "images" / picture
        found.questions.append(Question(key, picture, image, str(row["text"]), LONG_TOKENS, facts))
    return found


def judge_request(question: Question, answer: str) -> Request:
    """What the judge is asked: context, question, both answers, and the rule of the category."""
    facts = question.facts
    role, rule = facts["rule"]["role"], facts["rule"]["prompt"]
    parts = [f"[Context]\n{facts['context']}", f"[Question]\n{facts['text']}"]
    for number, text in enumerate((facts["reference"], answer), 1):
        parts += [f"[{role} {number}]\n{text}", f"[End of {role} {number}]"]
    parts.append(f"[System]\n{rule}")
    messages = (("system", _SYSTEM), ("user", "\n\n".join(parts) + "\n\n"))
    return Request.of(messages, fixed=(_SYSTEM, role, rule), temperature=0.2, max_tokens=1024)


def read_judgement(content: str) -> list[float] | None:
    """The two ratings of the first line, GPT-4's and the model's; None where there are not two numbers of 1 to 10."""
    first = content.strip().split("\n")[0].replace(",", " ").split()
    try:
        ratings = [float(one) for one in first]
    except ValueError:
        return None
    return ratings if len(ratings) == 2 and all(1 <= one <= 10 for one in ratings) else None


def score(
    questions: Sequence[Question], answers: Mapping[str, str], judgements: Mapping[str, Any] | None = None
) -> list[Item]:
    """An item an answer: `relative_score`, also by category, where it was judged; `unjudged` and `unparsed` (empty).

    `judgements`: a question's key -> what `read_judgement` gave.
    """
    items = []
    for question in questions:
        if question.key in answers:
            found = (judgements or {}).get(question.key)
            rated = None if found is None else (float(found[1]), float(found[0]))
            items.append(
                judged_item(question, answers[question.key], "relative_score", rated, [question.facts["group"]])
            )
    return items
