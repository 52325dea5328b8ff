"""From (picture, prompt) to model inputs, one sample at a time, and from samples to a left-padded batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from csr_core.policy.families import OF_PICTURES

# The authors' prompt: Vicuna v1's system text, then one turn, without a trailing space.
VICUNA_V1 = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ ' USER: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{% elif message['role'] == 'assistant' %}{{ ' ASSISTANT: ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}{% endif %}"
    "{{ '</s>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)

# Two families whose checkpoints come without a template; a turn of theirs is the bare text.
_BARE = (
    "{%% for message in messages %%}"
    "{%% if message['content'] is string %%}{{ message['content'] }}{%% else %%}%s"
    "{%% for part in message['content'] if part['type'] == 'text' %%}%s{%% endfor %%}{%% endif %%}"
    "{%% endfor %%}"
)
# Pictures first; the processor adds what stands between the prompt and the answer.
PALIGEMMA = _BARE % (
    "{% for part in message['content'] if part['type'] == 'image' %}<image>{% endfor %}",
    "{{ part['text'] }}",
)
# The processor puts the picture in front; an answer follows behind a blank.
INSTRUCTBLIP = _BARE % ("", "{{ part['text'] if message['role'] == 'user' else ' ' + part['text'] }}")
TEMPLATES = {"vicuna-v1": VICUNA_V1, "paligemma": PALIGEMMA, "instructblip": INSTRUCTBLIP}


@dataclass(frozen=True)
class PromptInputs:
    """One prompt as the processor gives it, picture tokens expanded.

    `sequence` holds what has one entry a token ([P]: input_ids, attention_mask, token types, ...); `features` what
    belongs to the pictures (pixel_values, grid sizes, ...), concatenated along their first axis in a batch.
    """

    sequence: dict[str, Int[Tensor, " prompt"]]
    features: dict[str, Tensor]

    @property
    def length(self) -> int:
        return int(self.sequence["input_ids"].shape[0])


def split_inputs(batch: dict[str, Any]) -> PromptInputs:
    """Split the processor's output for ONE sample into per-token and per-picture parts."""
    tokens = batch["input_ids"].shape
    sequence = {
        name: value[0]
        for name, value in batch.items()
        if torch.is_tensor(value) and value.shape == tokens and not name.startswith(OF_PICTURES)
    }
    features = {name: value for name, value in batch.items() if torch.is_tensor(value) and name not in sequence}
    return PromptInputs(sequence, features)


def collate(
    samples: Sequence[PromptInputs],
    continuations: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device | str,
    on_answers: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """Left-padded model inputs of `samples`, each followed by its `continuations` (token ids written so far).

    Returns: input_ids and attention_mask [B, T]; other per-token tensors [B, T] padded with 0, on continuations 0 or
    their value in `on_answers`; picture features joined along their first axis (`join_features`), in the rows' order.
    """
    total = max(sample.length + len(more) for sample, more in zip(samples, continuations, strict=True))
    out: dict[str, Tensor] = {}
    for name in samples[0].sequence:
        fill = pad_id if name == "input_ids" else 0
        rows = torch.full((len(samples), total), fill, dtype=samples[0].sequence[name].dtype)
        for row, (sample, more) in enumerate(zip(samples, continuations, strict=True)):
            start = total - sample.length - len(more)
            rows[row, start : start + sample.length] = sample.sequence[name]
            if name == "input_ids" and more:
                rows[row, start + sample.length :] = torch.tensor(list(more), dtype=rows.dtype)
            elif name in (on_answers or {}):
                rows[row, start + sample.length :] = (on_answers or {})[name]
            if name == "attention_mask":
                rows[row, start:] = 1
        out[name] = rows.to(device)
    for name in samples[0].features:
        out[name] = join_features([sample.features[name] for sample in samples]).to(device)
    return out


def join_features(parts: Sequence[Shaped[Tensor, of_one * rest]]) -> Shaped[Tensor, of_all * rest]:
    """The samples' tensors of one name behind one another; what is smaller is filled up with zeros at its ends.

    Families that cut a picture into crops have as many as its shape needs; their models take crops of zeros, as their
    processors fill up a batch with them, for none.
    """
    largest = [max(sizes) for sizes in zip(*(part.shape[1:] for part in parts), strict=True)]
    if all(list(part.shape[1:]) == largest for part in parts):
        return torch.cat(list(parts))
    padded = []
    for part in parts:
        whole = part.new_zeros(part.shape[0], *largest)
        whole[tuple(slice(size) for size in part.shape)] = part
        padded.append(whole)
    return torch.cat(padded)
