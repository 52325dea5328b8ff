"""What something is, by content: SHA-256 of files, folders and values."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from csr_core.records import read_json, write_json

# Text about a model, not the model.
NOT_CONTENT = {"README.md", ".gitattributes", ".gitignore"}


def digest_value(value: Any) -> str:
    """Of anything JSON can write; key order does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class Digests:
    """Digests of files and folders; a file's is remembered by size and time of change, as 14 GB take a while."""

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known: dict[str, list[Any]] = {}
        if memory is not None and memory.is_file():
            try:
                self._known = dict(read_json(memory))
            except (ValueError, OSError):
                self._known = {}  # only a memory: a damaged one is started anew

    def file(self, path: Path) -> str:
        stat = path.stat()
        key, mark = str(path.resolve()), [stat.st_size, stat.st_mtime_ns, stat.st_ino]
        known = self._known.get(key)
        if known is not None and known[:3] == mark:
            return str(known[3])
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        self._known[key] = [*mark, found]
        return found

    def path(self, path: Path) -> str | None:
        """Digest of a file, or of a folder's files by name and content; None where there is nothing."""
        if path.is_file():
            return self.file(path)
        if not path.is_dir():
            return None
        inside = (Path(folder) / name for folder, _, names in os.walk(path, followlinks=True) for name in names)
        listing = sorted((str(p.relative_to(path)), self.file(p)) for p in inside if p.name not in NOT_CONTENT)
        return digest_value(listing)

    def paths(self, paths: Iterable[Path]) -> dict[str, str | None]:
        return {str(path): self.path(path) for path in paths}

    def save(self) -> None:
        if self._memory is not None:
            write_json(self._memory, self._known)
