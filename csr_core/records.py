"""The tables that stages hand to each other: their columns, and writing that never leaves half a file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq

from csr_core.errors import InputError

CANDIDATES = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("node", pa.int32()),  # 0 is the root (the prompt itself); ids follow creation order within a prompt
        ("parent", pa.int32()),  # null for the root
        ("depth", pa.int32()),
        ("text", pa.string()),  # this sentence alone, leading space kept: a path's texts joined give the response
        ("token_ids", pa.list_(pa.int32())),  # this sentence alone
        ("log_likelihood", pa.float64()),  # sum of log p of token_ids (nats), temperature 1, no penalty
        ("score", pa.float64()),  # cumulative language score of the search, its penalties included
        ("is_final", pa.bool_()),  # the response ends with this node
        ("expanded", pa.bool_()),  # this node was grown further
    ]
)

SCORES = pa.schema(
    [
        *CANDIDATES,
        ("relevance", pa.float64()),  # R_I
        ("likelihood", pa.float64()),  # R_T in the form and scale of the settings
        ("reward", pa.float64()),  # null for the root and for dropped nodes
        ("likelihood_rank", pa.float64()),  # null unless ranks are combined; 1/n is best
        ("relevance_rank", pa.float64()),
        ("dropped", pa.string()),  # null, or why this node and its subtree are left out
    ]
)

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

PREFERENCES = pa.schema(
    [
        ("images", pa.list_(pa.string())),
        ("prompt", _MESSAGES),
        ("chosen", _MESSAGES),
        ("rejected", _MESSAGES),
        ("prompt_id", pa.string()),
        ("chosen_reward", pa.float64()),
        ("rejected_reward", pa.float64()),
        ("margin", pa.float64()),
        ("chosen_nodes", pa.list_(pa.int32())),  # from the root's child to the leaf
        ("rejected_nodes", pa.list_(pa.int32())),
    ]
)

PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("image", pa.string()),  # path, relative to the working folder where it lies below it
        ("prompt", pa.string()),
        ("image_sha256", pa.string()),
        ("images", pa.list_(pa.string())),  # null for one picture; of several all paths, `image` is the first
        ("images_sha256", pa.list_(pa.string())),
    ]
)

COUNTS = pa.schema(
    [
        ("split", pa.string()),
        ("key", pa.string()),  # finds the same caption or question among another model's
        ("image", pa.string()),
        ("figure", pa.string()),
        ("numerator", pa.float64()),  # the figure is the sum of numerators by the sum of denominators
        ("denominator", pa.float64()),
    ]
)


def pictures_of(prompt: dict[str, Any]) -> list[str]:
    """The paths of all pictures of a row of PROMPTS."""
    return list(prompt.get("images") or [prompt["image"]])


def pictures_name(prompt: dict[str, Any]) -> str:
    """A name for them by content: the SHA-256 of the picture's file, those of several joined by +; else their paths."""
    if prompt.get("images"):
        return "+".join(prompt["images_sha256"] or prompt["images"])
    return str(prompt["image_sha256"] or prompt["image"])


def write_table(path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
    """Write `rows` as one Parquet file, whole or not at all."""
    table = pa.Table.from_pylist(list(rows), schema=schema)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        pq.write_table(table, beside)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read_table(folder: Path, schema: pa.Schema | None = None) -> list[dict[str, Any]]:
    """All rows of the Parquet files of `folder`, in the order of the files' names.

    Raises:
        InputError: there is no such folder, no Parquet file in it, or a column of `schema` is missing.
    """
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise InputError(f"expected Parquet files in {folder}, found none: run the stage that writes it first")
    rows: list[dict[str, Any]] = []
    for file in files:
        table = pq.read_table(file)
        missing = [name for name in (schema.names if schema else []) if name not in table.column_names]
        if missing:
            raise InputError(
                f"{file} has columns {table.column_names}; missing: {missing}. Was it made by another stage?"
            )
        rows += table.to_pylist()
    return rows


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    beside.write_text(text, "utf-8")
    os.replace(beside, path)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    with beside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
    os.replace(beside, path)


def publish(made: Path, target: Path) -> None:
    """Put the finished `made` in the place of `target`; a kill leaves the old one or none, never a mixture."""
    if made.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(made, target)
        return
    old = target.with_name(f".{target.name}.{uuid4().hex}.old")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        os.replace(target, old)
    os.replace(made, target)
    shutil.rmtree(old, ignore_errors=True)
