"""Keys and values of many sequences in a table of slots, each sequence from token 0 on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

# Keys and values of each language layer: [kv_heads, tokens, size].
Layers = Sequence[tuple[Tensor, Tensor]]

# So that a row's numbers do not depend on what else is in the batch. In float32 on one CPU thread they then agree to
# the last bit (seen with MKL and oneDNN): padding by whole blocks leaves a row's tokens in the same lanes of vectorised
# sums, with zeros behind them; and products of fewer rows than these take another path through the kernels.
BLOCK = 16
LEAST_ROWS = 16


class Slots:
    """Slots 0 .. `used` - 1 hold sequences; a freed slot is filled with the last one, so that there are no holes.

    `lengths`: tokens of each used slot, on the host. What lies behind them is finite, and masked.
    """

    def __init__(self, like: Layers) -> None:
        """`like`: any sequence of the model, for the shapes of its layers."""
        self._like = [(keys[:, :0], values[:, :0]) for keys, values in like]
        self._tables: list[tuple[Tensor, Tensor]] = []
        self._slots = self._tokens = 0
        self.lengths: list[int] = []

    @property
    def used(self) -> int:
        return len(self.lengths)

    @property
    def device(self) -> torch.device:
        return self._like[0][0].device

    def tokens(self, ahead: int = 0) -> int:
        """Columns that are read: those of the longest sequence with `ahead` more tokens, in whole blocks."""
        return whole_blocks(max(self.lengths, default=0) + ahead)

    def layer(
        self, number: int, ahead: int = 0
    ) -> tuple[Float[Tensor, "used kv tokens size"], Float[Tensor, "used kv tokens size"]]:
        """The used slots' keys and values of one layer, in whole blocks of tokens."""
        keys, values = self._tables[number]
        tokens = self.tokens(ahead)
        return keys[: self.used, :, :tokens], values[: self.used, :, :tokens]

    def mask(self, ahead: int = 0) -> Float[Tensor, "used 1 1 tokens"]:
        """0 where a slot holds a token, also the `ahead` next ones; -inf behind them."""
        ends = torch.tensor(self.lengths)[:, None] + ahead
        hidden = torch.arange(self.tokens(ahead)) >= ends
        return torch.zeros(hidden.shape).masked_fill(hidden, float("-inf"))[:, None, None].to(self.device)

    def put(self, chunks: Sequence[Layers]) -> int:
        """Take a new slot for the sequence of all `chunks`, and return its number."""
        slot, length = self.used, sum(chunk[0][0].shape[1] for chunk in chunks)
        self.reserve(slot + 1, length)
        for number, tables in enumerate(self._tables):
            for side, table in enumerate(tables):
                start = 0
                for chunk in chunks:
                    part = chunk[number][side]
                    table[slot, :, start : start + part.shape[1]] = part
                    start += part.shape[1]
        self.lengths.append(length)
        return slot

    def get(self, slot: int) -> Layers:
        """A copy of a slot's keys and values, in one piece of memory."""
        length = self.lengths[slot]
        parts = [table[slot, :, :length] for tables in self._tables for table in tables]
        whole = parts[0].new_empty(sum(part.numel() for part in parts))
        copies, start = [], 0
        for part in parts:
            copies.append(whole[start : start + part.numel()].view(part.shape).copy_(part))
            start += part.numel()
        return list(zip(copies[::2], copies[1::2], strict=True))

    def free(self, slot: int) -> int:
        """Give a slot back; returns the number of the slot that was moved into it (itself, where none was)."""
        last = self.used - 1
        if slot != last:
            self.copy([last], [slot])
        self.lengths.pop()
        return last

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Make the slots `targets` equal to `sources`; both used, no slot on both sides."""
        if not sources:
            return
        longest = max(self.lengths[source] for source in sources)
        for source, target in zip(sources, targets, strict=True):
            self.lengths[target] = self.lengths[source]
        if longest:
            of, to = (torch.tensor(list(slots), device=self.device) for slots in (sources, targets))
            for tables in self._tables:
                for table in tables:
                    table[to, :, :longest] = table[of, :, :longest]

    def resize(self, used: int) -> None:
        """Use so many slots: further ones are empty, the last ones are forgotten."""
        self.lengths = self.lengths[:used] + [0] * (used - self.used)
        self.reserve(used, 0)

    def append(
        self, layer: int, keys: Float[Tensor, "used kv new size"], values: Tensor, at: tuple[Tensor, Tensor]
    ) -> None:
        """Write the next tokens of all used slots in one layer; `added` counts them when all layers have theirs.

        `at`: each slot, and where in it a single token goes; several begin at token 0.
        """
        new = keys.shape[2]
        for table, rows in zip(self._tables[layer], (keys, values), strict=True):
            if new > 1:
                table[: self.used, :, :new] = rows
            else:
                table[at[0], :, at[1]] = rows[:, :, 0]

    def added(self, counts: Sequence[int]) -> None:
        """So many tokens more are held by each slot."""
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]

    def reserve(self, slots: int, tokens: int) -> None:
        """Have room for so many slots of so many tokens each."""
        slots = slots if slots <= self._slots else math.ceil(slots / LEAST_ROWS) * LEAST_ROWS
        slots, tokens = max(self._slots, slots), max(self._tokens, whole_blocks(tokens))
        if (slots, tokens) == (self._slots, self._tokens):
            return
        for number, like in enumerate(self._like):  # layer by layer, so that two whole tables are never held
            before = self._tables[number] if self._slots else like
            grown = [one.new_zeros(slots, one.shape[-3], tokens, one.shape[-1]) for one in before]
            if self._slots:
                for table, old in zip(grown, before, strict=True):
                    table[: self._slots, :, : self._tokens] = old
                self._tables[number] = (grown[0], grown[1])
            else:
                self._tables.append((grown[0], grown[1]))
        self._slots, self._tokens = slots, tokens


def whole_blocks(length: int) -> int:
    """The next multiple of BLOCK."""
    return math.ceil(length / BLOCK) * BLOCK
