"""Prompts with their pictures, read once each, as states from which a decoder writes on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from csr_core.policy import Policy, PromptInputs, collate
from csr_core.policy.pictures import Pictures, takes_features
from csr_core.search.decoding import Decoder, Prefix, State
from csr_core.search.passes import base_model, close, inner_model, kept, last_logits, new_cache
from csr_core.search.shared import use_shared_prefixes
from csr_core.search.slots import BLOCK, LEAST_ROWS, whole_blocks

if TYPE_CHECKING:
    from csr_core.search.copied import CopyingDecoder

READ_TOGETHER = 8  # prompts in one forward pass: enough to fill the machine, and little memory


class Prefixes:
    """Reads prompts for decoding, so that no picture is looked at twice; `clear` when their trees are finished.

    `shared` says whether rows share what they have in common, or copy it; None finds out whether the model can.
    """

    def __init__(self, policy: Policy, shared: bool | None = None) -> None:
        self.policy = policy
        self.encoded = 0  # prompts sent through the model so far
        self._kept: dict[int, tuple[PromptInputs, State]] = {}  # by identity, which holds while the prompt is kept
        self._shared = shared
        self.pictures: Pictures | None = None  # None too where the model cannot be given features; found out once
        self._tried_pictures = False

    def clear(self, prompt: PromptInputs | None = None) -> None:
        """Forget `prompt`, or all."""
        if prompt is None:
            self._kept.clear()
        else:
            self._kept.pop(id(prompt), None)

    @torch.inference_mode()
    def get(self, prompts: Sequence[PromptInputs]) -> list[State]:
        """The states of prompts to which nothing was written yet; the missing ones are read in batches."""
        new = list({id(prompt): prompt for prompt in prompts if id(prompt) not in self._kept}.values())
        for start in range(0, len(new), READ_TOGETHER):
            batch = new[start : start + READ_TOGETHER]
            for prompt, state in zip(batch, self._encode(batch), strict=True):
                self._kept[id(prompt)] = (prompt, state)
            self.encoded += len(batch)
        return [self._kept[id(prompt)][1] for prompt in prompts]

    def read(self, prompts: Sequence[PromptInputs], written: Sequence[Sequence[int]]) -> list[State]:
        """The states of prompts with answers begun elsewhere, given as token ids."""
        states = self.get(prompts)
        return self.catch_up([replace(one, unread=tuple(ids)) for one, ids in zip(states, written, strict=True)])

    def catch_up(self, states: Sequence[State]) -> list[State]:
        """The states once the model has read what it has not yet."""
        found = list(states)
        behind = [row for row, state in enumerate(found) if state.unread]
        if behind:
            decoder = self.decoder()
            decoder.admit([replace(found[row], unread=()) for row in behind])
            decoder.write([found[row].unread for row in behind])
            for place, row in enumerate(behind):
                found[row] = decoder.state(place)
        return found

    def decoder(
        self, rows: int = LEAST_ROWS, tokens: int = BLOCK, readers: int = LEAST_ROWS
    ) -> Decoder | CopyingDecoder:
        """A decoder without rows, of the kind that the model goes along with; see `Decoder` for what is expected."""
        from csr_core.search.copied import CopyingDecoder

        return CopyingDecoder(self.policy) if self._shared is False else Decoder(self.policy, rows, tokens, readers)

    def _find_out(self, prompt: PromptInputs, state: State) -> None:
        """Whether rows can share, tried on one prompt against rows with copies; and whether these can be relied on."""
        from csr_core.search.trial import agree, check_goes_on

        self._shared = use_shared_prefixes(base_model(self.policy.model)) and agree(self.policy, state)
        check_goes_on(self.policy, prompt, state, self.decoder())
        if not self._shared:
            kind = type(base_model(self.policy.model)).__name__
            print(f"{kind} does not share prompts between rows: each row keeps a copy", file=sys.stderr, flush=True)

    def _encode(self, prompts: Sequence[PromptInputs]) -> list[State]:
        if not self._tried_pictures and prompts[0].features:
            self._tried_pictures, self.pictures = True, self._pictures_apart(prompts[0])
        cache, logits = self._first_pass(prompts) if self._shared is None else self._pass(prompts)
        offsets = getattr(inner_model(self.policy.model), "rope_deltas", None)
        offset = [0] * len(prompts) if offsets is None else offsets.flatten().tolist()
        states = []
        for row, prompt in enumerate(prompts):
            # A clone, so that the padded batch need not be kept for it.
            layers = [
                (one.keys[row, :, -prompt.length :].clone(), one.values[row, :, -prompt.length :].clone())
                for one in cache.layers
            ]
            states.append(State(Prefix(layers, prompt.length, offset[row]), (), logits[row].clone(), 0))
        if self._shared is None:
            self._find_out(prompts[0], states[0])
        return states

    def _first_pass(self, prompts: Sequence[PromptInputs]) -> tuple[Any, Float[Tensor, "prompts vocab"]]:
        """As `_pass`; an InputError where the model is of a kind that cannot be worked with."""
        from csr_core.search.trial import told_why

        with told_why(self.policy):
            cache, logits = self._pass(prompts)
            lengths = {one.keys.shape[2] for one in cache.layers}
            assert lengths == {whole_blocks(max(prompt.length for prompt in prompts))}, f"{lengths} keys a layer"
        return cache, logits

    def _pass(self, prompts: Sequence[PromptInputs]) -> tuple[Any, Float[Tensor, "prompts vocab"]]:
        """The cache of prompts without answers, and the logits behind them."""
        cache, inputs = new_cache(), self._collate(prompts)
        if not hasattr(inner_model(self.policy.model), "get_rope_index"):
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        out = self.policy.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=kept(len(prompts)))
        return cache, last_logits(out)

    def _pictures_apart(self, prompt: PromptInputs) -> Pictures | None:
        """What computes features, if the model says the same with them in place of pixels; tried on a prompt twice."""
        inner = inner_model(self.policy.model)
        if not takes_features(inner):
            return None
        expected = self._first_pass([prompt, prompt])[1]
        self.pictures = Pictures(inner, self.policy.device, self.policy.model.dtype)
        try:
            found = self._pass([prompt, prompt])[1]
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError):
            return None
        return self.pictures if close(found, expected, self.policy.model.dtype) else None

    def _collate(self, prompts: Sequence[PromptInputs]) -> dict[str, Any]:
        """Model inputs of prompts without answers, padded on the left to a length of whole blocks."""
        apart = self.pictures is not None and bool(prompts[0].features)
        texts = [PromptInputs(prompt.sequence, {}) for prompt in prompts] if apart else prompts
        inputs: dict[str, Any] = collate(texts, [[]] * len(texts), self.policy.pad_id, self.policy.device)
        if self.pictures is not None and apart:
            inputs |= self.pictures.inputs([prompt.features for prompt in prompts])
        length = inputs["input_ids"].shape[1]
        more = whole_blocks(length) - length
        for name in prompts[0].sequence:
            fill = self.policy.pad_id if name == "input_ids" else 0
            inputs[name] = torch.nn.functional.pad(inputs[name], (more, 0), value=fill)
        return inputs
