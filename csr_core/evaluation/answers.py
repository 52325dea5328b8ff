"""A policy's greedy answers to questions about pictures."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from csr_core.errors import InputError
from csr_core.images import Embedded, open_image
from csr_core.policy import Policy, PromptInputs
from csr_core.progress import Progress
from csr_core.search.batches import fitting_batch
from csr_core.search.prefixes import Prefixes

_WINDOW = 512  # questions that are prepared together and sorted by length
_CACHE_BYTES = 2**30  # of pixel features kept for the next questions on the same pictures


@dataclass(frozen=True)
class Ask:
    """One question about one picture; `key` names it where it has to be left out."""

    key: str
    image: Path | Embedded
    prompt: str


class Encoder:
    """Model inputs of (picture, prompt), with what questions share prepared once.

    What a processor makes of a picture does not depend on the prompt, and the tokens depend on the picture's size
    alone: so each picture is prepared once for all its questions, and each prompt once for all pictures of one size.
    """

    def __init__(self, policy: Policy, max_pixels: int, cache_bytes: int = _CACHE_BYTES) -> None:
        self.policy, self._max_pixels, self._room = policy, max_pixels, cache_bytes
        self.prefixes = Prefixes(policy)
        self._features: OrderedDict[Path | Embedded, tuple[tuple[int, int], dict[str, Tensor]]] = OrderedDict()
        self._sequences: dict[tuple[tuple[int, int], str], dict[str, Tensor]] = {}

    def encode(self, image: Path | Embedded, prompt: str) -> PromptInputs:
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

    def _keep(self, image: Path | Embedded, size: tuple[int, int], features: dict[str, Tensor]) -> None:
        self._features[image] = (size, features)
        self._room -= _bytes(features)
        while self._room < 0:
            self._room += _bytes(self._features.popitem(last=False)[1][1])


def _bytes(features: dict[str, Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in features.values())


def greedy_answers(
    asks: Sequence[Ask],
    max_new_tokens: int,
    batch_size: int | None,
    encoder: Encoder,
    name: str = "answers",
    on_answer: Callable[[int, str], None] = lambda place, text: None,
) -> tuple[list[str | None], list[dict[str, str]]]:
    """The most likely answer, token by token, to each of `asks`, in their order.

    batch_size: None takes what the free memory holds. on_answer: is given each, with its place, when it is finished.
    A picture that cannot be read gives None, and an entry {prompt_id, reason} in the second list.
    """
    texts: list[str | None] = [None] * len(asks)
    left_out: list[dict[str, str]] = []
    with Progress(name, len(asks), "answers") as bar:
        for start in range(0, len(asks), _WINDOW):
            window: list[tuple[int, PromptInputs]] = []
            for index in range(start, min(start + _WINDOW, len(asks))):
                try:
                    window.append((index, encoder.encode(asks[index].image, asks[index].prompt)))
                except InputError as error:
                    left_out.append({"prompt_id": asks[index].key, "reason": str(error)})
                    bar.advance()
            window.sort(key=lambda entry: -entry[1].length)  # little padding, and the largest batch first
            prompts = [prompt for _, prompt in window]
            if batch_size is None and prompts:
                batch_size = fitting_batch(encoder.prefixes.get(prompts[:1])[0], 1, max_new_tokens)
            for place, ids in greedy_rows(encoder.prefixes, prompts, max_new_tokens, batch_size or 1):
                index = window[place][0]
                texts[index] = text = encoder.policy.decode(ids).strip()
                on_answer(index, text)
                bar.advance()
    return texts, left_out


def greedy_rows(
    prefixes: Prefixes, prompts: Sequence[PromptInputs], max_new_tokens: int, batch_size: int
) -> Iterator[tuple[int, list[int]]]:
    """(place of the prompt, token ids of its greedy answer without the turn's end), as they are finished.

    The search's decoder with a row for each prompt: rows that end leave the batch, and prompts that wait enter it.
    """
    policy, waiting, batch_size = prefixes.policy, deque(enumerate(prompts)), min(batch_size, len(prompts))
    live: list[tuple[int, list[int]]] = []
    decoder: Any = None
    while waiting or live:
        room = batch_size - len(live)
        if waiting and (4 * room >= batch_size or room >= len(waiting)):
            new = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            states = prefixes.get([prompt for _, prompt in new])
            prefixes.clear()
            decoder = prefixes.decoder(batch_size, max_new_tokens, readers=1) if decoder is None else decoder
            decoder.admit(states)
            live += [(place, []) for place, _ in new]
        logits = decoder.logits
        never = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        never[list(policy.suppressed_ids)] = True
        going_on, tokens = [], []
        for row, token in enumerate(logits.masked_fill(never, float("-inf")).argmax(-1).tolist()):
            place, ids = live[row]
            if token not in policy.end_ids:
                ids.append(token)
            if token in policy.end_ids or len(ids) == max_new_tokens:
                yield place, ids
                continue
            going_on.append(row)
            tokens.append(token)
        live = [live[row] for row in going_on]
        if live:
            decoder.advance(going_on, torch.tensor(tokens))
        else:
            decoder = None
