"""POPE's official scoring of yes/no answers about objects (Li et al. 2023, arXiv 2305.10355); yes is positive."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from csr_core.evaluation.statistics import Item

_NO_WORDS = frozenset({"No", "not", "no"})
Key = tuple[str, str]  # category, question id


@dataclass
class PopeResult:
    """Counts of the scored answers, one item a question, and what was left out with the reason."""

    items: list[Item] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)  # prompt_id (category/question id), reason


def read_answer(text: str) -> bool:
    """Whether POPE takes `text` for a yes.

    Only what stands before the first full stop counts; commas are dropped, words are split at single spaces; with `No`,
    `not` or `no` among them it is a no, otherwise (empty too) a yes.
    """
    words = text.split(".", 1)[0].replace(",", "").split(" ")
    return not _NO_WORDS.intersection(words)


def is_plain(text: str) -> bool:
    """Whether the whole answer is yes or no, whatever its case and the full stop or exclamation mark behind it."""
    return text.strip().rstrip(".!").lower() in ("yes", "no")


def question_item(key: Key, image: str, truth: bool, text: str) -> Item:
    """What one answer adds to each figure.

    accuracy = right / all; precision = TP / (TP + FP); recall = TP / (TP + FN); F1 = 2 TP / (2 TP + FP + FN);
    yes-ratio = answered yes / all; unclear = neither a plain yes nor a plain no / all.
    """
    said = read_answer(text)
    hit, false_yes, false_no = int(said and truth), int(said and not truth), int(truth and not said)
    counts = {
        "pope_accuracy": (float(said == truth), 1.0),
        "pope_precision": (float(hit), float(hit + false_yes)),
        "pope_recall": (float(hit), float(hit + false_no)),
        "pope_f1": (2.0 * hit, float(2 * hit + false_yes + false_no)),
        "pope_yes_ratio": (float(said), 1.0),
        "pope_unclear": (float(not is_plain(text)), 1.0),
    }
    if key[0]:
        counts[f"pope_accuracy_{key[0]}"] = counts["pope_accuracy"]
    return Item(key, image, counts)


def pope(questions: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> PopeResult:
    """Score `answers` (`question_id` and `text` or `answer`) to `questions` (`question_id, image, label, category`).

    Which question an answer is to, where several question files repeat an id: the one of the answer's `category` where
    it has one; otherwise, if there are as many answers with that id as questions, the first answer is to the first
    file's, and so on. Anything else is ambiguous. Bad rows, and questions without an answer, are left out and named.
    """
    result = PopeResult()
    texts = _match(questions, answers, result)
    for number, question in enumerate(questions, 1):
        key, label = _key(question), str(question.get("label", "")).strip().lower()
        if "question_id" not in question or label not in ("yes", "no"):
            reason = f"question row {number}: expected question_id and a label yes or no, got {dict(question)!r:.200}"
            result.left_out.append({"prompt_id": "/".join(key), "reason": reason})
        elif key not in texts:
            result.left_out.append({"prompt_id": "/".join(key), "reason": "the answers file has no answer to it"})
        else:
            image = str(question.get("image", key[1]))
            result.items.append(question_item(key, image, label == "yes", texts.pop(key)))
    if len({item.key[0] for item in result.items if isinstance(item.key, tuple)}) < 2:
        # With one category alone its accuracy is the accuracy.
        for item in result.items:
            for name in [name for name in item.counts if name.startswith("pope_accuracy_")]:
                del item.counts[name]
    return result


def _key(row: Mapping[str, Any]) -> Key:
    return str(row.get("category") or ""), str(row.get("question_id"))


def _match(
    questions: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]], result: PopeResult
) -> dict[Key, str]:
    """Which text answers which question."""
    by_id: dict[str, list[Key]] = defaultdict(list)
    for question in questions:
        by_id[_key(question)[1]].append(_key(question))
    known = {key for keys in by_id.values() for key in keys}
    given = Counter(str(row.get("question_id")) for row in answers)
    turn: Counter[str] = Counter()
    texts: dict[Key, str] = {}
    for number, row in enumerate(answers, 1):
        key = _key(row)
        keys = by_id.get(key[1], [])
        position = turn[key[1]]
        turn[key[1]] += 1
        text = row.get("answer", row.get("text"))
        reason = ""
        if not isinstance(text, str) or "question_id" not in row:
            reason = f"expected question_id and text (or answer), got {dict(row)!r:.200}"
        elif key not in known and not keys:
            reason = f"the question files have no question {key[1]}"
        elif key not in known and len(keys) not in (1, given[key[1]]):
            reason = (
                f"{len(keys)} questions have the id {key[1]} and {given[key[1]]} answers: give each answer its category"
            )
        else:
            key = key if key in known else keys[0] if len(keys) == 1 else keys[position]
            if key in texts:
                reason = "an earlier row answers the same question"
        if reason:
            result.left_out.append({"prompt_id": "/".join(key), "reason": f"answer row {number}: {reason}"})
        else:
            texts[key] = str(text)
    return texts
