"""Forward passes of a search: each prompt with its picture once, each node's answer so far once, then token by token.

What a search needs of it is `NodeDecoder` alone: `logits` for the present rows, and `advance` to rows that continue
some of them. The keys and values of a prompt are held once, whatever the number of its rows (`csr_core.search.shared`);
a row that is continued twice copies those of its own branch. Where a family of models does not go along with that, each
row has a copy of the prompt's too.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csr_core.policy import Policy, PromptInputs, collate
from csr_core.search.shared import SharedPrefix, use_shared_prefixes

# So that a row's numbers do not depend on what else is in the batch. In float32 on one CPU thread they then agree to
# the last bit (seen with MKL and oneDNN): padding by whole blocks leaves a row's tokens in the same lanes of vectorised
# sums, with zeros before them; and products of fewer rows than these take another path through the kernels.
BLOCK = 16
LEAST_ROWS = 16


@dataclass(frozen=True)
class _Prefix:
    """A prompt and its picture after their forward pass.

    layers: keys and values of each language layer, [heads, prompt, head size]. offset: for families whose picture
    positions are counted otherwise (Qwen-VL), what is to be added to a token's number to get its position.
    """

    prompt: PromptInputs
    layers: list[tuple[Tensor, Tensor]]
    logits: Float[Tensor, " vocab"]
    offset: Int[Tensor, " one"]


class Prefixes:
    """Keys and values of the prompts that are being grown, so that no picture is looked at twice.

    They take about the memory of one row of a decode batch each; `clear` when their trees are finished. `shared` says
    whether the rows of a prompt share them, or copy them; None finds out whether the model can.
    """

    def __init__(self, policy: Policy, shared: bool | None = None) -> None:
        self.policy = policy
        self.encoded = 0  # prompts sent through the model so far
        self._kept: dict[int, _Prefix] = {}
        self._shared = shared

    def shared(self, prefix: _Prefix) -> bool:
        """Whether rows share their prompt's keys and values; tried once, on `prefix`, against rows with copies."""
        if self._shared is None:
            self._shared = use_shared_prefixes(_base(self.policy.model)) and _agrees(self, prefix)
            if not self._shared:
                kind = type(_base(self.policy.model)).__name__
                print(f"{kind} does not share prompts between rows: each row keeps a copy", file=sys.stderr, flush=True)
        return self._shared

    def clear(self) -> None:
        self._kept.clear()

    @torch.inference_mode()
    def get(self, prompts: Sequence[PromptInputs]) -> list[_Prefix]:
        """The prefixes of `prompts`, the missing ones computed in one batch."""
        new = list({id(prompt): prompt for prompt in prompts if id(prompt) not in self._kept}.values())
        if new:
            self._kept.update(zip(map(id, new), self._encode(new), strict=True))
            self.encoded += len(new)
        return [self._kept[id(prompt)] for prompt in prompts]

    def _encode(self, prompts: Sequence[PromptInputs]) -> list[_Prefix]:
        cache = _new_cache()
        inputs = self._collate(prompts)
        inner = _inner(self.policy.model)
        if not hasattr(inner, "get_rope_index"):
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        out = self.policy.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=_kept(len(prompts)))
        offsets = getattr(inner, "rope_deltas", None)
        if offsets is None:
            offsets = torch.zeros(len(prompts), 1, dtype=torch.long, device=self.policy.device)
        logits = _logits(out)
        return [
            _Prefix(
                prompt,
                # A clone, so that the padded batch need not be kept for it.
                [(layer.keys[row, :, -prompt.length :].clone(), layer.values[row, :, -prompt.length :].clone())
                 for layer in cache.layers],
                logits[row].clone(),
                offsets[row].clone(),
            )
            for row, prompt in enumerate(prompts)
        ]  # fmt: skip

    def _collate(self, prompts: Sequence[PromptInputs]) -> dict[str, Any]:
        """Model inputs of prompts without answers, padded on the left to a length of whole blocks."""
        inputs: dict[str, Any] = collate(prompts, [[]] * len(prompts), self.policy.pad_id, self.policy.device)
        length = inputs["input_ids"].shape[1]
        more = _whole_blocks(length) - length
        for name in prompts[0].sequence:
            fill = self.policy.pad_id if name == "input_ids" else 0
            inputs[name] = torch.nn.functional.pad(inputs[name], (more, 0), value=fill)
        return inputs


class NodeDecoder:
    """A batch of nodes under decoding. At first row i is node i; `advance` forks, drops and reorders rows.

    `logits`: of the next token for each row, float32, where the model is (on the CPU for MPS, which has no float64).
    """

    logits: Float[Tensor, "rows vocab"]

    @torch.inference_mode()
    def __init__(self, prefixes: Prefixes, prompts: Sequence[PromptInputs], written: Sequence[Sequence[int]]) -> None:
        """`written`: the token ids of each node's answer so far."""
        self._policy = prefixes.policy
        self._rows = len(prompts)
        known = prefixes.get(prompts)
        self._shared: SharedPrefix | None = None
        if prefixes.shared(known[0]):
            self._share(known)
        else:
            self._cache, self._mask = _join(known)
        self._offset = torch.stack([prefix.offset for prefix in known])
        # Number of tokens so far.
        self._next = torch.tensor([[prefix.prompt.length] for prefix in known], device=self._policy.device)
        self._dimensions = 3 if hasattr(_inner(self._policy.model), "get_rope_index") else 0
        if any(written):
            ids, mask = _left_padded(written, self._policy.pad_id, self._policy.device)
            numbers = self._next + (mask.cumsum(-1) - 1).clamp(min=0)
            self._next = self._next + mask.sum(-1, keepdim=True)
            self._forward(ids, mask, numbers)
            # A node without an answer so far has only padding here; its logits are the prompt's own.
            bare = torch.tensor([not ids for ids in written], device=self.logits.device)
            if bare.any():
                self.logits = torch.where(bare[:, None], torch.stack([one.logits for one in known]), self.logits)
        else:
            self.logits = torch.stack([prefix.logits for prefix in known])

    def _share(self, known: Sequence[_Prefix]) -> None:
        distinct = list({id(prefix): prefix for prefix in known}.values())
        number = {id(prefix): index for index, prefix in enumerate(distinct)}
        longest = _whole_blocks(max(prefix.prompt.length for prefix in distinct))
        self._shared = SharedPrefix.of([prefix.layers for prefix in distinct], longest, LEAST_ROWS)
        self._prompt = torch.tensor([number[id(prefix)] for prefix in known], device=self._policy.device)
        self._shared.assign(self._prompt)
        self._cache = _new_cache()
        self._mask = torch.ones(len(known), 0, dtype=torch.long, device=self._policy.device)

    @torch.inference_mode()
    def advance(self, parents: Int[Tensor, " next"], tokens: Int[Tensor, " next"]) -> None:
        """Replace the rows: new row i is row `parents[i]` with `tokens[i]` appended."""
        self._rows = len(parents)
        parents, tokens = (_enough_rows(part).to(self._policy.device) for part in (parents, tokens))
        if not torch.equal(parents, torch.arange(len(self._mask), device=parents.device)):
            self._select(parents)
        self._forward(tokens[:, None], self._mask.new_ones(len(parents), 1), self._next)
        self._next = self._next + 1

    def _select(self, parents: Int[Tensor, " next"]) -> None:
        if self._cache.layers:
            self._cache.batch_select_indices(parents)
        self._mask, self._next = self._mask[parents], self._next[parents]
        self._offset = self._offset[parents]
        if self._shared is not None:
            self._prompt = self._prompt[parents]
            live, places = torch.unique(self._prompt, return_inverse=True)
            if 2 * len(live) <= len(self._shared.mask):  # most prompts have no row left
                self._shared.keep(live)
                self._prompt = places
            self._shared.assign(self._prompt)

    def _forward(
        self, ids: Int[Tensor, "rows new"], mask: Int[Tensor, "rows new"], numbers: Int[Tensor, "rows new"]
    ) -> None:
        """Append `ids`, the tokens number `numbers` of their rows, and keep the logits after the last."""
        self._mask = torch.cat([self._mask, mask], dim=-1)
        positions = numbers + self._offset
        if self._dimensions:
            positions = positions.expand(self._dimensions, *positions.shape)
        out = self._policy.model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=_kept(len(ids)),
            **({"shared": self._shared} if self._shared is not None else {}),
        )
        self.logits = _logits(out)[: self._rows]


def _agrees(prefixes: Prefixes, prefix: _Prefix) -> bool:
    """Whether one decode step over the shared prompt gives what a copy of it gives."""
    policy, token = prefixes.policy, prefix.logits.argmax()[None]
    found = []
    for shared in (False, True):
        known = Prefixes(policy, shared)
        known._kept[id(prefix.prompt)] = prefix
        try:
            decoder = NodeDecoder(known, [prefix.prompt], [[]])
            for _ in range(2):
                decoder.advance(torch.zeros(1, dtype=torch.long, device=token.device), token)
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
            return False
        found.append(decoder.logits.float())
    close = 1e-3 if policy.model.dtype == torch.float32 else 5e-2
    return bool((found[0] - found[1]).abs().max() <= close * found[0].abs().max().clamp(min=1.0))


def context_length(policy: Policy) -> int | None:
    """The most tokens the language model can read, where its configuration tells."""
    found = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else None


def _new_cache() -> Any:
    from transformers import DynamicCache

    # Without the model's configuration every layer keeps all tokens, also those whose attention has a window: what lies
    # outside of it is masked, and rows of unlike padding can be cut out and joined.
    return DynamicCache()


def _join(prefixes: Sequence[_Prefix]) -> tuple[Any, Int[Tensor, "rows prompt"]]:
    """One cache of many prefixes, padded on the left, and its attention mask."""
    cache, longest = _new_cache(), _whole_blocks(max(prefix.prompt.length for prefix in prefixes))
    for index, parts in enumerate(zip(*(prefix.layers for prefix in prefixes), strict=True)):
        keys, values = (torch.stack([_pad_left(part[side], longest) for part in parts]) for side in (0, 1))
        cache.update(keys, values, index)
    device = prefixes[0].layers[0][0].device
    mask = torch.zeros(len(prefixes), longest, dtype=torch.long, device=device)
    for row, prefix in enumerate(prefixes):
        mask[row, longest - prefix.prompt.length :] = 1
    return cache, mask


def _pad_left(rows: Float[Tensor, "heads prompt size"], longest: int) -> Float[Tensor, "heads longest size"]:
    return torch.nn.functional.pad(rows, (0, 0, longest - rows.shape[1], 0))


def _left_padded(
    written: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Int[Tensor, "rows new"], Int[Tensor, "rows new"]]:
    """Token ids and attention mask."""
    longest = _whole_blocks(max(map(len, written)))
    ids = torch.tensor([[pad_id] * (longest - len(row)) + list(row) for row in written], device=device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in written], device=device)
    return ids, mask


def _whole_blocks(length: int) -> int:
    """The next multiple of BLOCK."""
    return math.ceil(length / BLOCK) * BLOCK


def _enough_rows(values: Int[Tensor, " rows"]) -> Int[Tensor, " more"]:
    """At least LEAST_ROWS values, the last one repeated."""
    return torch.cat([values, values[-1:].expand(max(0, LEAST_ROWS - len(values)))])


def _kept(rows: int) -> int:
    """For how many last tokens of each row to compute logits: only the last is used, but see LEAST_ROWS."""
    return math.ceil(LEAST_ROWS / rows)


def _logits(out: Any) -> Float[Tensor, "rows vocab"]:
    logits: Tensor = out.logits[:, -1].float()
    return logits.cpu() if logits.device.type == "mps" else logits


def _base(model: Any) -> Any:
    """The model without PEFT's wrapping."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _inner(model: Any) -> Any:
    """The model without its head, and without PEFT's wrapping."""
    base = _base(model)
    return getattr(base, "model", base)
