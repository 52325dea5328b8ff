"""Trees in the parts of a stage's table. Imports nothing heavy: the flow's own process reads them too."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from csr_core.errors import InputError

Row = dict[str, Any]


def part_files(folder: Path) -> list[Path]:
    """The parts of a stage's table, in the order of their names.

    Raises:
        InputError: there are none.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise InputError(f"expected Parquet files in {folder}, found none: run the stage that writes it first")
    return files


def part_sizes(folder: Path) -> list[int]:
    """Nodes of each part, roots included."""
    return [pq.read_metadata(file).num_rows for file in part_files(folder)]


def trees_of_part(file: Path, schema: pa.Schema, seen: set[str]) -> dict[str, list[Row]]:
    """The nodes of each prompt in one part, by node id; `seen` collects the prompts over the parts.

    Raises:
        InputError: a column is missing, or a prompt's tree is spread over two parts.
    """
    table = pq.read_table(file)
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise InputError(f"{file} has columns {table.column_names}; missing: {missing}. Was it made by another stage?")
    trees: dict[str, list[Row]] = defaultdict(list)
    for row in table.select(schema.names).to_pylist():
        trees[row["prompt_id"]].append(row)
    if twice := sorted(seen & trees.keys()):
        raise InputError(
            f"{file} holds nodes of {twice[0]!r}, as an earlier part does: parts of two runs in one folder?"
        )
    seen.update(trees)
    return {prompt_id: sorted(rows, key=lambda row: int(row["node"])) for prompt_id, rows in trees.items()}
