"""What rows have in common, in tables, as long as some row reads it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from csr_core.search.shared import Common
from csr_core.search.slots import BLOCK, Layers, Slots


class Held:
    """What rows have in common, each part held as long as some row reads it.

    Parts of like length are in one table, its lengths up to the next power of two: what is padded is computed too.
    """

    def __init__(self, like: Layers) -> None:
        self._like = like
        self.tables: dict[int, Slots] = {}
        self._at: dict[int, tuple[int, int]] = {}  # of each part, its table and slot
        self._named: dict[int, list[int]] = {}  # of each slot of a table, whose it is
        self._readers: dict[int, int] = {}
        self._kept: dict[int, Any] = {}  # so that an identity is not given to another meanwhile

    def hold(self, owner: Any, chunks: Sequence[Layers]) -> None:
        name = id(owner)
        if name not in self._at:
            length = sum(chunk[0][0].shape[1] for chunk in chunks)
            table = max(BLOCK, 1 << (length - 1).bit_length())
            if table not in self.tables:
                self.tables[table], self._named[table] = Slots(self._like), []
            self._at[name] = (table, self.tables[table].put(chunks))
            self._named[table].append(name)
            self._readers[name], self._kept[name] = 0, owner
        self._readers[name] += 1

    def release(self, owner: Any) -> None:
        name = id(owner)
        self._readers[name] -= 1
        if self._readers[name] == 0:
            table, slot = self._at.pop(name)
            last = self.tables[table].free(slot)
            moved = self._named[table].pop()
            if last != slot:
                self._named[table][slot], self._at[moved] = moved, (table, slot)
            if not self._named[table]:
                del self.tables[table], self._named[table]
            del self._readers[name], self._kept[name]

    def read_by(self, owners: Sequence[Any], rooms: int) -> list[Common]:
        """For each table which slot each row reads; `owners` has None for rows that read nothing."""
        at = [(0, -1) if owner is None else self._at[id(owner)] for owner in owners]
        found = []
        for table, slots in self.tables.items():
            common = Common(slots, rooms)
            common.assign([slot if of == table else -1 for of, slot in at])
            found.append(common)
        return found
