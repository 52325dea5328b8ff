"""Attention in which many rows share the keys and values of a prompt, which are held once.

Each decode row attends to two parts: the prompt it belongs to, and its own branch (what was written since). Both are
computed apart and merged by their log-sum-exp, as in FlashAttention's split softmax (arXiv 2205.14135, section 3.1):

    o = (exp(m1 - m) * sum_j exp(s1_j - m1) v_j + exp(m2 - m) * sum_j exp(s2_j - m2) v_j)
        / (exp(m1 - m) * l1 + exp(m2 - m) * l2),    m = max(m1, m2),  l = sum_j exp(s_j - max)

The queries of all rows of one prompt meet its keys in one matrix product: they are read once a step, not once a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

NAME = "csr_shared_prefix"  # in transformers' AttentionInterface
LEAST = -1e30  # in place of the maximum of nothing


@dataclass
class SharedPrefix:
    """The prompts of a batch, padded on the left, and which row belongs to which.

    layers: keys and values of each language layer, [prompts, heads, P, size]. mask: which of the P are a prompt's own.
    place: [rows], where a row's queries go in a table of [prompts * room], `room` rows for each prompt.
    """

    layers: list[tuple[Tensor, Tensor]]
    mask: Bool[Tensor, "prompts P"]
    least_room: int  # queries a prompt in the table, so that small batches do not take another path through the kernels
    place: Tensor
    room: int = 0

    @classmethod
    def of(cls, prompts: Sequence[Sequence[tuple[Tensor, Tensor]]], longest: int, least_room: int = 1) -> SharedPrefix:
        """From the prompts' keys and values, [heads, P, size] for each layer, padded to `longest`."""
        layers = [
            (
                torch.stack([_pad(one[0], longest) for one in parts]),
                torch.stack([_pad(one[1], longest) for one in parts]),
            )
            for parts in zip(*prompts, strict=True)
        ]
        device = layers[0][0].device
        lengths = torch.tensor([one[0][0].shape[1] for one in prompts], device=device)
        mask = torch.arange(longest, device=device) >= (longest - lengths)[:, None]
        return cls(layers, mask, least_room, torch.empty(0, dtype=torch.long, device=device))

    def assign(self, prompt_of_row: Int[Tensor, " rows"]) -> None:
        """Say to which prompt each row of the next forward passes belongs."""
        prompts = len(self.mask)
        counts = torch.bincount(prompt_of_row, minlength=prompts)
        order = prompt_of_row.argsort(stable=True)
        first = counts.cumsum(0) - counts
        slot = torch.empty_like(prompt_of_row)
        slot[order] = torch.arange(len(order), device=order.device) - first[prompt_of_row[order]]
        self.room = max(int(counts.max()), self.least_room)
        self.place = prompt_of_row * self.room + slot

    def keep(self, prompts: Int[Tensor, " kept"]) -> None:
        """Forget the other prompts; rows have to be assigned anew."""
        self.layers = [(keys[prompts], values[prompts]) for keys, values in self.layers]
        self.mask = self.mask[prompts]


def _pad(rows: Float[Tensor, "heads prompt size"], longest: int) -> Float[Tensor, "heads longest size"]:
    return torch.nn.functional.pad(rows, (0, 0, longest - rows.shape[1], 0))


def shared_prefix_attention(
    module: Any,
    query: Float[Tensor, "rows heads new size"],
    key: Float[Tensor, "rows kv_heads own size"],
    value: Float[Tensor, "rows kv_heads own size"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared: SharedPrefix | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "rows new heads size"], None]:
    """transformers' attention function: with `shared`, over that and the row's own branch; else the usual one.

    `key`, `value`, `attention_mask` are the branch's; everything in a row's prompt is seen by all its new tokens.
    """
    if shared is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    keys, values = shared.layers[module.layer_idx]
    rows, heads, new, size = query.shape
    kv_heads = key.shape[1]
    factor = size**-0.5 if scaling is None else scaling
    # Heads that share keys and values stand side by side: [rows, kv_heads, heads a group * new, size].
    grouped = query.reshape(rows, kv_heads, heads // kv_heads * new, size)
    own = _own_part(grouped, key, value, attention_mask, factor, new)
    prefix = _prefix_part(grouped, keys, values, shared, factor)
    out = _merged(own, prefix, query.dtype)
    return out.view(rows, heads, new, size).transpose(1, 2).contiguous(), None


Part = tuple[Tensor, Tensor, Tensor]  # maximum and sum of the exponentials, [..., 1], and their sum of values


def _own_part(
    query: Float[Tensor, "rows kv queries size"],
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    factor: float,
    new: int,
) -> Part:
    scores = (query @ key.transpose(-1, -2)).float() * factor
    if attention_mask is not None:
        mask = attention_mask[:, :, :, : key.shape[2]]  # [rows or 1, 1, new, own]
        mask = mask.expand(len(query), 1, new, key.shape[2]).repeat(1, 1, query.shape[2] // new, 1)
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    elif new > 1:
        ahead = torch.ones(new, key.shape[2], dtype=torch.bool, device=key.device).triu(key.shape[2] - new + 1)
        scores = scores.masked_fill(ahead.repeat(query.shape[2] // new, 1), float("-inf"))
    return _part(scores, value)


def _prefix_part(query: Tensor, keys: Tensor, values: Tensor, shared: SharedPrefix, factor: float) -> Part:
    """Rows are laid out by prompt, met with its keys, and laid back."""
    _, kv_heads, queries, size = query.shape
    prompts, room = len(keys), shared.room
    table = query.new_zeros(prompts * room, kv_heads, queries, size)
    table[shared.place] = query
    by_prompt = table.view(prompts, room, kv_heads, queries, size).transpose(1, 2)
    scores = (by_prompt.reshape(prompts, kv_heads, room * queries, size) @ keys.transpose(-1, -2)).float() * factor
    if not bool(shared.mask.all()):
        scores = scores.masked_fill(~shared.mask[:, None, None, :], float("-inf"))

    def back(part: Tensor) -> Tensor:
        laid = part.view(prompts, kv_heads, room, queries, -1).transpose(1, 2)
        return laid.reshape(prompts * room, kv_heads, queries, -1)[shared.place]

    top, total, weighted = _part(scores, values)
    return back(top), back(total), back(weighted)


def _part(scores: Float[Tensor, "*batch queries keys"], values: Float[Tensor, "*batch keys size"]) -> Part:
    top = scores.amax(-1, keepdim=True).clamp(min=LEAST)
    weights = (scores - top).exp()
    return top, weights.sum(-1, keepdim=True), (weights.to(values.dtype) @ values).float()


def _merged(first: Part, second: Part, dtype: torch.dtype) -> Tensor:
    top = torch.maximum(first[0], second[0])
    scales = [(part[0] - top).exp() for part in (first, second)]
    total = scales[0] * first[1] + scales[1] * second[1]
    return ((scales[0] * first[2] + scales[1] * second[2]) / total).to(dtype)


def use_shared_prefixes(model: Any) -> bool:
    """Have the language model take the attention above; False where the model does not let one choose, or needs more.

    Forward passes without `shared` stay what they were. Layers that see a window of the past only would have to count
    the prompt into it, which the branch's mask does not: those keep to their own attention.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config.get_text_config()
    windows = any("sliding" in kind or "chunk" in kind for kind in getattr(config, "layer_types", None) or [])
    if config is model.config or config._attn_implementation not in ("sdpa", NAME) or windows:
        return False
    AttentionInterface.register(NAME, shared_prefix_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation({"text_config": NAME})
    return bool(config._attn_implementation == NAME)
