"""Embeddings of pictures, kept by content from one stage and iteration to the next."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_TABLE = "create table if not exists pictures (model text, picture text, embedding blob, primary key (model, picture))"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_WAIT = 30.0  # seconds for another process that writes


class Embeddings:
    """A file of embeddings (SQLite; float32, little-endian).

    Pictures are named by the SHA-256 of their files; others are not kept. Only a memory: a file that cannot be had just
    now is done without, a damaged one is started anew.
    """

    def __init__(self, file: Path, model: str) -> None:
        """`model`: what makes the embeddings; those that another made are not looked at."""
        self._file, self._model = file, model

    def get(self, pictures: Iterable[str]) -> dict[str, Float[Tensor, " dim"]]:
        """Those of `pictures` that are known."""
        query, found = "select embedding from pictures where model = ? and picture = ?", {}
        try:
            with closing(self._connect()) as file:
                for picture in pictures:
                    if row := file.execute(query, (self._model, picture)).fetchone():
                        found[picture] = torch.from_numpy(np.frombuffer(row[0], dtype="<f4").astype(np.float32))
        except (OSError, sqlite3.DatabaseError) as error:
            self._do_without(error)
            return {}
        return found

    def put(self, embeddings: Mapping[str, Float[Tensor, " dim"]]) -> None:
        """Keep these too."""
        rows = [
            (self._model, name, row.numpy().astype("<f4").tobytes())
            for name, row in embeddings.items()
            if _SHA256.fullmatch(name)
        ]
        try:
            with closing(self._connect()) as file, file:
                file.executemany("insert or ignore into pictures values (?, ?, ?)", rows)
        except (OSError, sqlite3.DatabaseError) as error:
            self._do_without(error)

    def _connect(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        file = sqlite3.connect(self._file, timeout=_WAIT)
        file.execute(_TABLE)
        return file

    def _do_without(self, error: Exception) -> None:
        # Operational: locked, full or out of reach, which may pass; other errors are of a file that is no database.
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            self._file.unlink(missing_ok=True)
