"""The decoder of models whose attention cannot be chosen, or sees a window: every row has a copy of its whole past."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csr_core.policy import Policy
from csr_core.search import decoding
from csr_core.search.passes import inner_model, kept, last_logits, new_cache, text_model
from csr_core.search.slots import LEAST_ROWS, Layers, whole_blocks


class CopyingDecoder:
    """As `csr_core.search.decoding.Decoder`; one padded cache of transformers for all rows."""

    logits: Float[Tensor, "rows vocab"]

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._from: list[decoding.State] = []
        self._lengths: list[int] = []  # of each row, tokens so far
        self._cache = new_cache()
        self._mask = torch.zeros(0, 0, dtype=torch.long, device=policy.device)

    def __len__(self) -> int:
        return len(self._from)

    @torch.inference_mode()
    def admit(self, states: Sequence[decoding.State]) -> None:
        if not states:
            return
        rows = [_joined([state.prefix.layers, *state.chunks]) for state in states]
        new = torch.stack([state.logits for state in states])
        self.logits = torch.cat([self.logits[: len(self)], new]) if len(self) else new
        self._from += states
        self._lengths += [state.prefix.length + state.written for state in states]
        self._join(rows)

    def _join(self, rows: Sequence[Layers]) -> None:
        """Put the rows below those of the cache, all padded on the left to the longest."""
        before = self._mask.shape[0]
        longest = whole_blocks(max([row[0][0].shape[1] for row in rows] + [self._mask.shape[1]]))
        cache = new_cache()
        for index, parts in enumerate(zip(*rows, strict=True)):
            sides = []
            for side in (0, 1):
                new = torch.stack([_pad_left(part[side], longest) for part in parts])
                if before:
                    old = self._cache.layers[index]
                    new = torch.cat([_pad_left(old.keys if side == 0 else old.values, longest), new])
                sides.append(new)
            cache.update(sides[0], sides[1], index)
        mask = self._mask.new_zeros(before + len(rows), longest)
        mask[:before, longest - self._mask.shape[1] :] = self._mask
        for row, layers in enumerate(rows):
            mask[before + row, longest - layers[0][0].shape[1] :] = 1
        self._cache, self._mask = cache, mask

    @torch.inference_mode()
    def advance(self, parents: Int[Tensor, " next"] | Sequence[int], tokens: Int[Tensor, " next"]) -> None:
        self._select(torch.as_tensor(parents).tolist())
        self._forward(tokens[:, None].cpu())

    @torch.inference_mode()
    def write(self, answers: Sequence[Sequence[int]]) -> None:
        """Answers of one length at a time: padding between a prompt and its answer would count in a layer's window."""
        states: dict[int, decoding.State] = {}
        for length in sorted(set(map(len, answers))):
            rows = [row for row, ids in enumerate(answers) if len(ids) == length]
            part = CopyingDecoder(self._policy)
            part.admit([self._from[row] for row in rows])
            part._forward(torch.tensor([list(answers[row]) for row in rows]))
            states |= {row: part.state(place) for place, row in enumerate(rows)}
        self._from, self._lengths = [], []
        self._cache, self._mask = new_cache(), self._mask[:0, :0]
        self.admit([states[row] for row in range(len(answers))])

    @torch.inference_mode()
    def state(self, row: int) -> decoding.State:
        before = self._from[row]
        seen, start = self._mask[row].bool(), before.prefix.length + before.written
        own = [(one.keys[row][:, seen][:, start:], one.values[row][:, seen][:, start:]) for one in self._cache.layers]
        written = self._lengths[row] - before.prefix.length
        return decoding.State(before.prefix, (*before.chunks, own), self.logits[row].clone(), written)

    def _select(self, parents: list[int]) -> None:
        # The last row stands in for what is missing: see LEAST_ROWS.
        rows = parents + [parents[-1]] * max(0, LEAST_ROWS - len(parents))
        if rows != list(range(len(self._mask))):
            places = torch.tensor(rows, device=self._policy.device)
            self._cache.batch_select_indices(places)
            self._mask = self._mask[places]
        self._from = [self._from[parent] for parent in parents]
        self._lengths = [self._lengths[parent] for parent in parents]

    def _forward(self, ids: Int[Tensor, "rows new"]) -> None:
        """Append `ids` and keep the logits after the last."""
        more, device, new = len(self._mask) - len(ids), self._policy.device, ids.shape[1]
        ids = torch.cat([ids, ids[-1:].expand(more, -1)])
        offsets = [state.prefix.offset for state in self._from]
        starts = [length + offset for length, offset in zip(self._lengths, offsets, strict=True)]
        starts += [starts[-1]] * more
        positions = torch.tensor(starts)[:, None] + torch.arange(new)
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(ids), new)], dim=-1)
        if hasattr(inner_model(self._policy.model), "get_rope_index"):
            positions = positions.expand(3, *positions.shape)
        out = text_model(self._policy)(
            input_ids=ids.to(device),
            attention_mask=self._mask,
            position_ids=positions.to(device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=kept(len(ids)),
        )
        rows = len(self._from)
        self._lengths = [length + new for length in self._lengths]
        self.logits = last_logits(out)[:rows]
        if len(self._mask) > rows:
            self._cache.batch_select_indices(torch.arange(rows, device=device))
            self._mask = self._mask[:rows]


def _joined(chunks: Sequence[Layers]) -> Layers:
    return [
        (torch.cat([part[0] for part in parts], dim=1), torch.cat([part[1] for part in parts], dim=1))
        for parts in zip(*chunks, strict=True)
    ]


def _pad_left(rows: Float[Tensor, "*batch heads tokens size"], longest: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, 0, longest - rows.shape[-2], 0))
