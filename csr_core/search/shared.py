"""Attention of many rows that have parts of their past in common, each part held once.

A decode row looks at three parts: the picture and prompt it belongs to, the sentences before its own, and its own
sentence. Its attention to each is computed apart and merged by their log-sum-exp, as in FlashAttention's split softmax
(arXiv 2205.14135, section 3.1):

    o = sum_p exp(m_p - m) * sum_j exp(s_pj - m_p) v_pj  /  sum_p exp(m_p - m) * l_p,
    m = max_p m_p,   l_p = sum_j exp(s_pj - m_p)

The queries of all rows of one prompt, and those of all siblings, meet the common keys in one matrix product: these are
read once a step, not once a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csr_core.search.slots import Slots

NAME = "csr_shared_prefix"  # in transformers' AttentionInterface
LEAST = -1e30  # in place of the maximum of nothing


@dataclass
class Common:
    """Keys and values in slots, and which slot each row reads (-1: none).

    room: queries a slot has in the table of queries, at least `rooms`, so that a small batch does not take another path
    through the kernels. place: where a row goes in that table of [slots * room]; only rows that read have one.
    """

    slots: Slots
    rooms: int = 1
    room: int = 0
    place: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    readers: Tensor | None = None  # the rows that read, where not all do
    mask: Tensor | None = None  # [slots, 1, 1, tokens]: 0, or -inf behind a slot's last token

    def assign(self, slot_of_row: Sequence[int]) -> None:
        """Say which slot each row of the next forward passes reads."""
        taken = [0] * self.slots.used
        place, readers = [], []
        for row, slot in enumerate(slot_of_row):
            if slot >= 0:
                readers.append(row)
                place.append((slot, taken[slot]))
                taken[slot] += 1
        device = self.slots.device
        self.room = max(self.rooms, *taken)
        self.place = torch.tensor([slot * self.room + at for slot, at in place], device=device)
        self.readers = torch.tensor(readers, device=device) if len(readers) < len(slot_of_row) else None
        self.mask = self.slots.mask()


@dataclass
class View:
    """What the rows of a forward pass see: parts they have in common, and their own (row i in slot i)."""

    common: list[Common]
    own: Slots
    own_mask: Tensor | None = None
    at: tuple[Tensor, Tensor] = field(init=False)  # slot and place of each row's next token

    def prepare(self, new: int) -> None:
        """Make room for `new` more tokens of each row, and the mask of the own part."""
        self.own.reserve(self.own.used, max(self.own.lengths) + new)
        device = self.own.device
        self.at = (torch.arange(self.own.used, device=device), torch.tensor(self.own.lengths, device=device))
        if new == 1:
            self.own_mask = self.own.mask(ahead=1)
            return
        if any(self.own.lengths):
            raise ValueError("several tokens at once are for rows without own tokens")
        tokens = self.own.tokens(ahead=new)
        ahead = torch.arange(tokens) > torch.arange(new)[:, None]
        self.own_mask = torch.zeros(1, 1, new, tokens).masked_fill(ahead, float("-inf")).to(self.own.device)


def shared_prefix_attention(
    module: Any,
    query: Float[Tensor, "rows heads new size"],
    key: Float[Tensor, "rows kv_heads new size"],
    value: Float[Tensor, "rows kv_heads new size"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    shared: View | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "rows new heads size"], None]:
    """transformers' attention function: with `shared`, over what that holds and the new tokens; else the usual one.

    The new keys and values are added to the rows' own part; `attention_mask` is not looked at with `shared`.
    """
    if shared is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    layer = module.layer_idx
    rows, heads, new, size = query.shape
    kv_heads = key.shape[1]
    factor = size**-0.5 if scaling is None else scaling
    # Heads that share keys and values stand side by side: [rows, kv_heads, heads a group * new, size].
    grouped = query.reshape(rows, kv_heads, heads // kv_heads * new, size)
    shared.own.append(layer, key, value, shared.at)
    keys, values = shared.own.layer(layer, ahead=new)
    mask = shared.own_mask
    if mask is not None and new > 1:
        mask = mask.repeat(1, 1, heads // kv_heads, 1)
    out = _part(grouped @ keys.transpose(-1, -2), values, mask, factor)
    for common in shared.common:
        out = _merged(out, _common_part(grouped, common, layer, factor), common.readers)
    merged = (out[2] / out[1]).to(query.dtype)
    return merged.view(rows, heads, new, size).transpose(1, 2).contiguous(), None


Part = tuple[Tensor, Tensor, Tensor]  # maximum and sum of the exponentials, [..., 1], and their sum of values


def _common_part(query: Float[Tensor, "rows kv queries size"], common: Common, layer: int, factor: float) -> Part:
    """The readers' queries are laid out by slot, met with its keys, and laid back."""
    if common.readers is not None:
        query = query[common.readers]
    keys, values = common.slots.layer(layer)
    slots, kv_heads, _, size = keys.shape
    queries, room = query.shape[2], common.room
    table = query.new_zeros(slots * room, kv_heads, queries, size)
    table[common.place] = query
    by_slot = table.view(slots, room, kv_heads, queries, size).transpose(1, 2)
    scores = by_slot.reshape(slots, kv_heads, room * queries, size) @ keys.transpose(-1, -2)

    def back(part: Tensor) -> Tensor:
        laid = part.view(slots, kv_heads, room, queries, -1).transpose(1, 2)
        return laid.reshape(slots * room, kv_heads, queries, -1)[common.place]

    top, total, weighted = _part(scores, values, common.mask, factor)
    return back(top), back(total), back(weighted)


def _part(
    scores: Float[Tensor, "*batch queries keys"],
    values: Float[Tensor, "*batch keys size"],
    mask: Tensor | None,
    factor: float,
) -> Part:
    scores = scores.float().mul_(factor)
    if mask is not None:
        scores += mask
    top = scores.amax(-1, keepdim=True).clamp(min=LEAST)
    weights = scores.sub_(top).exp_()
    return top, weights.sum(-1, keepdim=True), (weights.to(values.dtype) @ values).float()


def _merged(first: Part, second: Part, readers: Tensor | None) -> Part:
    """Both parts as one; `second` is of the rows `readers` alone, where given: those of `first` are overwritten."""
    if readers is not None:
        few = _merged((first[0][readers], first[1][readers], first[2][readers]), second, None)
        for one, part in zip(first, few, strict=True):
            one[readers] = part
        return first
    top = torch.maximum(first[0], second[0])
    left, right = (first[0] - top).exp_(), (second[0] - top).exp_()
    return top, left * first[1] + right * second[1], left * first[2] + right * second[2]


def use_shared_prefixes(model: Any) -> bool:
    """Have the language model take the attention above; False where the model does not let one choose, or needs more.

    Forward passes without `shared` stay what they were. Layers that see a window of the past only would have to count
    the prompt into it, which is not done here: those keep to their own attention.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config.get_text_config()
    if config is model.config or config._attn_implementation not in ("sdpa", NAME) or has_windows(config):
        return False
    AttentionInterface.register(NAME, shared_prefix_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation({"text_config": NAME})
    return bool(config._attn_implementation == NAME)


def has_windows(config: Any) -> bool:
    """Whether some layers of a language model (its configuration) see the last tokens only.

    Where a configuration does not tell layer by layer (Mistral's), a window is that of all.
    """
    if kinds := getattr(config, "layer_types", None):
        return any("sliding" in kind or "chunk" in kind for kind in kinds)
    window: int = getattr(config, "sliding_window", None) or 0
    return 0 < window < int(getattr(config, "max_position_embeddings", window + 1))
