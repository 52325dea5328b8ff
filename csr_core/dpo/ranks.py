"""Training in several processes, the ranks: what they agree on, and how pairs are dealt out to them.

Alone, as on one GPU, a process is rank 0 of 1 and agrees with itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import Any, TypeVar

import torch.distributed as dist
from torch.utils.data import BatchSampler, Sampler

T = TypeVar("T")


def ranks() -> int:
    """How many processes train together."""
    return int(dist.get_world_size()) if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; the first, 0, writes files and tells of progress."""
    return int(dist.get_rank()) if ranks() > 1 else 0


def by_first(make: Callable[[], T]) -> T:
    """What rank 0 makes, for all ranks: they must not find different things out."""
    if ranks() == 1:
        return make()
    told: list[Any] = [make() if rank() == 0 else None]
    dist.broadcast_object_list(told, src=0)
    made: T = told[0]
    return made


def least(value: int) -> int:
    """The smallest of the ranks' values."""
    if ranks() == 1:
        return value
    values: list[Any] = [None] * ranks()
    dist.all_gather_object(values, value)
    return int(min(values))


class Rounds(BatchSampler):
    """The batches that one process would see, in rounds of one for each rank.

    accelerate hands batch i to rank i % ranks. Left alone it fills up the last round of an epoch with pairs from its
    beginning; here the round's own batches and pairs are repeated instead, so that each update learns from the same
    pairs whatever the number of ranks. A pair that is repeated weighs more in that one update, unless all are.
    """

    def __init__(self, sampler: Sampler[int], batch_size: int, ranks: int) -> None:
        self.sampler = sampler  # accelerate puts its seeded one here
        self._size, self._ranks = batch_size, ranks

    def __len__(self) -> int:
        of_a_round = self._size * self._ranks
        return -(-len(self.sampler) // of_a_round) * self._ranks  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        batches = iter(BatchSampler(self.sampler, self._size, drop_last=False))
        while held := list(islice(batches, self._ranks)):
            longest = max(map(len, held))
            for batch in islice(cycle(held), self._ranks):
                yield list(islice(cycle(batch), longest))
