"""Preference pairs as token rows and batches: what the trainer sees is what the search generated.

TRL's own vision collator tokenises prompt and answer apart and without special tokens. For a Llama tokenizer that turns
`"ASSISTANT:" + " A dog"` into another token row than the model wrote (an extra blank, no beginning-of-sequence token),
and templates without an end of turn (LLaVA-1.5's) give answers that never end. So answers are tokenised here together
with their prompt, once, and the collator below only adds the picture's tokens, in front of which nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from csr_core.errors import InputError
from csr_core.images import open_image
from csr_core.policy import Policy, PromptInputs
from csr_core.policy.families import rendered
from csr_core.policy.prompt import join_features
from csr_core.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

CHECKED_ROWS = 8


@dataclass(frozen=True)
class Pairs:
    """The pairs that can be trained on, and those that cannot with the reason.

    Each of `rows`: prompt_id, images (paths), prompt (the question's text), chosen_ids and rejected_ids (token ids of
    the answers, the end of turn last).
    """

    rows: list[dict[str, Any]]
    left_out: list[dict[str, str]]


def answer_ids(policy: Policy, question: str, answer: str, pictures: int = 1) -> list[int]:
    """Token ids of `answer` after the rendered `question` on so many pictures, ending with the end of turn.

    Raises:
        InputError: the prompt is not the beginning of prompt + answer, as text or as tokens, so the model would be
            trained on another context than it generates from.
    """
    prompt = policy.render(question, pictures) + policy.family.behind_prompt
    before = policy.tokenise(prompt)
    whole = policy.tokenise(prompt + _rendered_answer(policy, question, answer, pictures))
    if whole[: len(before)] != before:
        at = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(whole))
        raise InputError(
            "the tokens of the prompt are not the beginning of the tokens of prompt + answer: they part at token "
            f"{at} of {len(before)} ({policy.tokenizer.convert_ids_to_tokens(before[at:])} against "
            f"{policy.tokenizer.convert_ids_to_tokens(whole[at : at + 4])}). The chat template should end the prompt "
            "on a token boundary, e.g. 'ASSISTANT:' without a trailing blank: change model.prompt_template"
        )
    ids = whole[len(before) :]
    end = next((i for i, token in enumerate(ids) if token in policy.end_ids), None)
    if end is not None:
        return ids[: end + 1]
    eos = policy.tokenizer.eos_token_id
    return [*ids, eos if eos in policy.end_ids else min(policy.end_ids)]


def _rendered_answer(policy: Policy, question: str, answer: str, pictures: int) -> str:
    """What the chat template writes after the generation prompt for the stripped `answer`, trailing blanks removed."""
    prompt, whole = policy.render(question, pictures), rendered(policy.processor, question, pictures, answer.strip())
    if not whole.startswith(prompt):
        raise InputError(
            "the chat template writes the prompt differently when an answer follows: expected prompt + answer to begin "
            f"with {prompt[-60:]!r} at its place, came {whole[max(0, len(prompt) - 60) :][:120]!r}. Training would "
            "then not match generation: set model.prompt_template to a template whose turns simply follow one another"
        )
    return whole[len(prompt) :].rstrip()


def check_with_picture(policy: Policy, row: dict[str, Any], max_pixels: int) -> None:
    """Picture, prompt and answer through the processor in one go must give the very tokens that training composes.

    Raises:
        InputError: they differ (a processor that writes picture tokens into or after the answer, for instance).
    """
    images = _pictures(row, max_pixels)
    prompt = policy.encode(images, row["prompt"])
    for side in ("chosen", "rejected"):
        tail = _rendered_answer(policy, row["prompt"], row[side], len(images))
        whole = policy.encode_text(images, policy.render(row["prompt"], len(images)), tail).sequence
        composed = _answered(policy, prompt, row[f"{side}_ids"])
        long = len(composed["input_ids"])
        shorter = min(len(whole["input_ids"]), long)  # the end of turn may have been added, or what follows it removed
        same = all(whole[name][:shorter].tolist() == values[:shorter] for name, values in composed.items())
        if not same or abs(len(whole["input_ids"]) - long) > 2:
            raise InputError(
                f"pair {row['prompt_id']}: the processor gives {len(whole['input_ids'])} tokens for prompt and {side} "
                f"answer together, but {long} other ones for prompt, then answer, so training would not match "
                "generation. The model's processor or chat template is of a kind not known here: set "
                "model.prompt_template, and please report the model"
            )


def _answered(policy: Policy, prompt: PromptInputs, ids: list[int]) -> dict[str, list[int]]:
    """The per-token inputs of a prompt and an answer, as training composes them."""
    fills = {name: [policy.family.on_answers.get(name, 0)] * len(ids) for name in prompt.sequence}
    fills |= {"input_ids": ids, "attention_mask": [1] * len(ids)}
    return {name: values.tolist() + fills[name] for name, values in prompt.sequence.items()}


def usable_pairs(
    policy: Policy, table: Sequence[dict[str, Any]], max_pixels: int, max_tokens: int | None = None
) -> Pairs:
    """Tokenise each preference of `table` (records.PREFERENCES), open its picture once, sort out what cannot be used.

    Pictures are let go again: they are opened once more when their batch is made, so memory does not grow with the
    number of pairs. Rows longer than `max_tokens` (picture, prompt and the longer answer) are left out, never cut.

    Raises:
        InputError: there is no row, none of the rows can be used, or tokens do not line up (`check_with_picture`).
    """
    rows: list[dict[str, Any]] = []
    left_out: list[dict[str, str]] = []
    with Progress("reading pairs", total=len(table), unit="pairs", counts=False) as bar:
        for entry in table:
            try:
                row = _usable_row(policy, entry, max_pixels, max_tokens)
                if len(rows) < CHECKED_ROWS:
                    check_with_picture(policy, row, max_pixels)
                rows.append(
                    {name: row[name] for name in ("prompt_id", "images", "prompt", "chosen_ids", "rejected_ids")}
                )
            except InputError as error:
                left_out.append({"prompt_id": str(entry["prompt_id"]), "reason": str(error)})
            bar.advance()
    if not rows:
        reasons = "; ".join(sorted({entry["reason"] for entry in left_out})[:3])
        raise InputError(
            f"none of the {len(table)} preference pairs can be trained on. "
            + (
                f"Reasons (at most three shown): {reasons}"
                if reasons
                else "The pair stage kept no pair: see its summary."
            )
        )
    return Pairs(rows, left_out)


def _usable_row(policy: Policy, entry: dict[str, Any], max_pixels: int, max_tokens: int | None) -> dict[str, Any]:
    question = _text_of(entry, "prompt", "user")
    answers = {side: _text_of(entry, side, "assistant") for side in ("chosen", "rejected")}
    if not entry["images"]:
        raise InputError("expected one picture or several, came none")
    row: dict[str, Any] = {"prompt_id": str(entry["prompt_id"]), "images": list(entry["images"]), "prompt": question}
    row |= answers
    for side, answer in answers.items():
        row[f"{side}_ids"] = answer_ids(policy, question, answer, len(row["images"]))
        _no_placeholders(policy, row[f"{side}_ids"], side)
    if row["chosen_ids"] == row["rejected_ids"]:
        raise InputError("chosen and rejected are the same tokens: there is nothing to prefer")
    images = _pictures(row, max_pixels)
    if max_tokens is not None:
        length = policy.encode(images, question).length + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
        if length > max_tokens:
            raise InputError(f"{length} tokens with the picture, more than finetune.max_tokens = {max_tokens}")
    return row


def _pictures(row: dict[str, Any], max_pixels: int) -> list[Image]:
    return [open_image(path, max_pixels) for path in row["images"]]


def _text_of(entry: dict[str, Any], name: str, role: str) -> str:
    messages = entry[name] or []
    if len(messages) != 1 or messages[0]["role"] != role or not (messages[0]["content"] or "").strip():
        raise InputError(f"expected {name} to be one {role} message with a text, came {messages!r:.200}")
    return str(messages[0]["content"])


def _no_placeholders(policy: Policy, ids: list[int], side: str) -> None:
    """An answer with the picture's own token in it would ask the model for a second picture.

    The search never draws such tokens, but an answer's text may read back as one: `<unk>` for an unknown character.
    """
    held = sorted(set(ids) & set(policy.suppressed_ids))
    if held:
        names = policy.tokenizer.convert_ids_to_tokens(held)
        raise InputError(
            f"the {side} answer, read back from its text, holds special tokens {names}, which a model is never taught "
            "to write: the pair is not trained on"
        )


def pair_batch(
    samples: Sequence[PromptInputs],
    chosen: Sequence[list[int]],
    rejected: Sequence[list[int]],
    pad_id: int,
    on_answers: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Batch of N pairs for TRL's DPO loss: the N chosen rows, then the N rejected rows, padded on the right.

    Returns: input_ids, attention_mask, completion_mask [2N, T] and other per-token tensors of the processor [2N, T]
    (on answers 0, or their value in `on_answers`); the pictures' tensors, those of the N rows twice. completion_mask
    is 1 on the answers' tokens.
    """
    answers = [*chosen, *rejected]
    twice = [*samples, *samples]
    total = max(sample.length + len(answer) for sample, answer in zip(twice, answers, strict=True))
    batch: dict[str, Tensor] = {"completion_mask": torch.zeros(len(twice), total, dtype=torch.long)}
    for name, first in samples[0].sequence.items():
        batch[name] = torch.full((len(twice), total), pad_id if name == "input_ids" else 0, dtype=first.dtype)
    for row, (sample, answer) in enumerate(zip(twice, answers, strict=True)):
        start, end = sample.length, sample.length + len(answer)
        for name, values in sample.sequence.items():
            batch[name][row, :start] = values
        for name, value in (on_answers or {}).items():
            batch[name][row, start:end] = value
        batch["input_ids"][row, start:end] = torch.tensor(answer)
        batch["attention_mask"][row, :end] = 1
        batch["completion_mask"][row, start:end] = 1
    for name in samples[0].features:
        batch[name] = join_features([sample.features[name] for sample in twice])
    return batch


@dataclass
class PairCollator:
    """Rows of `Pairs` to a batch; each picture is opened and prepared once, here, for both of its answers.

    `shared`: for a model with `csr_core.dpo.shared.SharedPrompts`.
    """

    policy: Policy
    max_pixels: int
    shared: bool = False

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        from csr_core.dpo.shared import shared_pair_batch

        samples = [self.policy.encode(_pictures(row, self.max_pixels), row["prompt"]) for row in rows]
        chosen, rejected = ([row[f"{side}_ids"] for row in rows] for side in ("chosen", "rejected"))
        if self.shared:
            return shared_pair_batch(samples, chosen, rejected, self.policy.pad_id)
        return pair_batch(samples, chosen, rejected, self.policy.pad_id, self.policy.family.on_answers)
