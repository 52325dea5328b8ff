"""A policy's greedy answers to questions about pictures."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csr_core.errors import InputError
from csr_core.images import open_image
from csr_core.policy import Policy, PromptInputs, collate
from csr_core.progress import Progress

_WINDOW = 8  # batches that are encoded together and sorted by length
_CACHE_BYTES = 2**30  # of pixel features kept for the next questions on the same pictures


@dataclass(frozen=True)
class Ask:
    """One question about one picture; `key` names it where it has to be left out."""

    key: str
    image: Path
    prompt: str


class Encoder:
    """Model inputs of (picture, prompt), with what questions share prepared once.

    What a processor makes of a picture does not depend on the prompt, and the tokens depend on the picture's size
    alone: so each picture is prepared once for all its questions, and each prompt once for all pictures of one size.
    """

    def __init__(self, policy: Policy, max_pixels: int, cache_bytes: int = _CACHE_BYTES) -> None:
        self.policy, self._max_pixels, self._room = policy, max_pixels, cache_bytes
        self._features: OrderedDict[Path, tuple[tuple[int, int], dict[str, Tensor]]] = OrderedDict()
        self._sequences: dict[tuple[tuple[int, int], str], dict[str, Tensor]] = {}

    def encode(self, image: Path, prompt: str) -> PromptInputs:
        """Raises InputError where the picture cannot be opened."""
        known = self._features.get(image)
        if known is not None:
            self._features.move_to_end(image)
            sequence = self._sequences.get((known[0], prompt))
            if sequence is not None:
                return PromptInputs(sequence, known[1])
        picture = open_image(image, self._max_pixels)
        inputs = self.policy.encode(picture, prompt)
        # A processor that puts something of the prompt beside the picture's features is asked anew every time.
        if all(name.startswith(("pixel_", "image_")) for name in inputs.features):
            self._sequences[picture.size, prompt] = inputs.sequence
            if known is None:
                self._keep(image, picture.size, inputs.features)
        return inputs

    def _keep(self, image: Path, size: tuple[int, int], features: dict[str, Tensor]) -> None:
        self._features[image] = (size, features)
        self._room -= _bytes(features)
        while self._room < 0:
            self._room += _bytes(self._features.popitem(last=False)[1][1])


def _bytes(features: dict[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in features.values())


def greedy_answers(
    policy: Policy,
    asks: Sequence[Ask],
    max_new_tokens: int,
    batch_size: int,
    encoder: Encoder,
    name: str = "answers",
) -> tuple[list[str | None], list[dict[str, str]]]:
    """The most likely answer, token by token, to each of `asks`, in their order.

    A picture that cannot be read gives None, and an entry {prompt_id, reason} in the second list.
    """
    texts: list[str | None] = [None] * len(asks)
    left_out: list[dict[str, str]] = []
    config = _greedy(policy, max_new_tokens)
    with Progress(name, len(asks), "answers") as bar:
        for start in range(0, len(asks), _WINDOW * batch_size):
            window: list[tuple[int, PromptInputs]] = []
            for index in range(start, min(start + _WINDOW * batch_size, len(asks))):
                try:
                    window.append((index, encoder.encode(asks[index].image, asks[index].prompt)))
                except InputError as error:
                    left_out.append({"prompt_id": asks[index].key, "reason": str(error)})
                    bar.advance()
            window.sort(key=lambda entry: -entry[1].length)  # little padding, and the largest batch first
            for at in range(0, len(window), batch_size):
                batch = window[at : at + batch_size]
                for (index, _), text in zip(
                    batch, _generate(policy, [inputs for _, inputs in batch], config), strict=True
                ):
                    texts[index] = text
                bar.advance(len(batch))
    return texts, left_out


def _greedy(policy: Policy, max_new_tokens: int) -> Any:
    """The checkpoint's generation settings without its own taste in sampling."""
    config = deepcopy(policy.model.generation_config)
    config.update(
        do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None, repetition_penalty=None,
        max_length=None, max_new_tokens=max_new_tokens, pad_token_id=policy.pad_id, eos_token_id=sorted(policy.end_ids),
        suppress_tokens=list(policy.suppressed_ids) or None,
    )  # fmt: skip
    return config


@torch.inference_mode()
def _generate(policy: Policy, samples: Sequence[PromptInputs], config: Any) -> list[str]:
    inputs = collate(samples, [()] * len(samples), policy.pad_id, policy.device)
    dtype = policy.model.dtype
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    rows = policy.model.generate(**inputs, generation_config=config)[:, inputs["input_ids"].shape[1] :].tolist()
    return [policy.decode(_until_end(row, policy)).strip() for row in rows]


def _until_end(ids: list[int], policy: Policy) -> list[int]:
    end = next((position for position, token in enumerate(ids) if token in policy.end_ids), len(ids))
    return ids[:end]
