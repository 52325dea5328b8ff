"""One preference pair in the forms that other programs read: the authors', LLaMA-Factory's, ms-swift's, TRL's.

What a form has no place for (path scores, margin, nodes) goes under one key of ours, `csr`, that their loaders leave
out: the authors' reads the keys it knows, LLaMA-Factory and ms-swift drop other columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from csr_core.prompts import id_of, question_of

Row = dict[str, Any]
OURS = "csr"
OUR_KEYS = ("chosen_reward", "rejected_reward", "margin", "chosen_nodes", "rejected_nodes")
SPEAKERS = ("gpt", "assistant")


def to_authors(row: Row, images: list[str]) -> Row:
    """`id, image, conversations, rejected_conversations`: LLaVA's form, twice.

    The authors' own sets hold the whole rendered prompt as what the human says; LLaVA's loader renders it again. This
    gives it the question alone, as that loader expects.

    Raises:
        ValueError: several pictures: the form has room for one.
    """
    if len(images) != 1:
        raise ValueError(f"{len(images)} pictures: the authors' form has room for one")
    asked = {"from": "human", "value": f"<image>\n{_said(row['prompt'], ('user',))}"}
    answers = ({"from": "gpt", "value": _said(row[side])} for side in ("chosen", "rejected"))
    chosen, rejected = ([asked, answer] for answer in answers)
    head = {"id": row["prompt_id"], "image": images[0]}
    return {**head, "conversations": chosen, "rejected_conversations": rejected, OURS: _ours(row)}


def to_llama_factory(row: Row, images: list[str]) -> Row:
    """A row of LLaMA-Factory's sharegpt form with `ranking`; before the question as many `<image>` as pictures."""
    asked = [{"from": "human", "value": "<image>" * len(images) + str(_said(row["prompt"], ("user",)))}]
    answers = {side: {"from": "gpt", "value": _said(row[side])} for side in ("chosen", "rejected")}
    return {"id": row["prompt_id"], "images": images, "conversations": asked, **answers, OURS: _ours(row)}


def to_ms_swift(row: Row, images: list[str]) -> Row:
    """A row of ms-swift's standard form: the chosen answer ends `messages`, the other one is `rejected_response`."""
    asked = {"role": "user", "content": "<image>" * len(images) + str(_said(row["prompt"], ("user",)))}
    messages = [asked, {"role": "assistant", "content": _said(row["chosen"])}]
    answers = {"messages": messages, "rejected_response": _said(row["rejected"])}
    return {"id": row["prompt_id"], "images": images, **answers, OURS: _ours(row)}


TO: dict[str, Callable[[Row, list[str]], Row]] = {
    "authors": to_authors,
    "llama-factory": to_llama_factory,
    "ms-swift": to_ms_swift,
}


def from_row(row: Any, number: int) -> tuple[str, Row | str]:
    """The id, and the pair as in records.PREFERENCES but for its pictures, or why there is none; from any of the forms.

    Answers are taken as they are; of the prompt the picture's mark and the authors' rendering are taken off.
    """
    if not isinstance(row, dict):
        return f"row {number + 1}", row if isinstance(row, str) else f"not an object, but {type(row).__name__}"
    prompt_id, question = id_of(row, f"{number:06d}"), question_of(row)
    chosen, rejected = _answers(row)
    if question is None or chosen is None or rejected is None:
        return prompt_id, f"fields missing: expected a prompt, one chosen and one rejected answer, got {sorted(row)}"
    if "rejected_conversations" in row and question_of({"conversations": row["rejected_conversations"]}) != question:
        return prompt_id, "two prompts: chosen and rejected answer something else"
    if not (question and chosen.strip() and rejected.strip()):
        return prompt_id, "empty prompt or answer"
    if chosen.strip() == rejected.strip():
        return prompt_id, "equal texts"
    own = row[OURS] if isinstance(row.get(OURS), dict) else row
    pair = {
        "prompt": [{"role": "user", "content": question}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "prompt_id": prompt_id,
    }
    return prompt_id, {**pair, **{key: own.get(key) for key in OUR_KEYS}}


def _answers(row: Row) -> tuple[str | None, str | None]:
    if "rejected_conversations" in row:
        return _said(row.get("conversations")), _said(row["rejected_conversations"])
    if "rejected_response" in row:
        return _said(row.get("messages")), _said(row["rejected_response"])
    return _said(row.get("chosen")), _said(row.get("rejected"))


def _said(value: Any, speakers: tuple[str, ...] = SPEAKERS) -> str | None:
    """The text of an answer: alone, as a message, or the only message of the speaker among several."""
    if isinstance(value, list):
        turns = [turn for turn in value if isinstance(turn, dict) and turn.get("from", turn.get("role")) in speakers]
        return _said(turns[0]) if len(turns) == 1 else None
    if isinstance(value, dict):
        return _said(value.get("value", value.get("content")))
    return value if isinstance(value, str) else None


def _ours(row: Row) -> Row:
    return {key: row[key] for key in OUR_KEYS}
