"""What each answer counted, kept beside the answers: any figure can be compared later without reading them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from csr_core.errors import InputError
from csr_core.evaluation.statistics import Item
from csr_core.records import COUNTS, read_table, write_table

FILE = "counts.parquet"

Items = dict[str, list[Item]]  # split or benchmark -> what its answers counted


def write_counts(folder: Path, items: Mapping[str, Sequence[Item]]) -> None:
    """Write the items of each split or benchmark to `folder`, a row for each figure of each item."""
    rows = [
        {
            "split": split,
            "key": repr(item.key),
            "image": str(item.image),
            "figure": name,
            "numerator": above,
            "denominator": below,
        }
        for split, own in items.items()
        for item in own
        for name, (above, below) in item.counts.items()
    ]
    write_table(folder / FILE, rows, COUNTS)


def read_counts(folder: Path) -> Items:
    """The items by split or benchmark, an item for each figure; keys and images as text.

    Raises:
        InputError: the answers there have no counts.
    """
    if not (folder / FILE).is_file():
        raise InputError(
            f"expected {FILE} in {folder}, found none: its answers were measured by an older version, or not yet. "
            "`csr run` (or `csr stage evaluate --iteration K`) measures them again"
        )
    found: Items = {}
    for row in read_table(folder, COUNTS):
        counts = {row["figure"]: (row["numerator"], row["denominator"])}
        found.setdefault(row["split"], []).append(Item((row["figure"], row["key"]), row["image"], counts))
    return found
