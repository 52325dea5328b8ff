"""Read the files that benchmarks come in: captions, COCO's instances and captions, POPE's questions, answers.

A file of the wrong kind is an `InputError` that says what was expected; single bad rows are left out by the scorers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csr_core.errors import InputError
from csr_core.evaluation.chair import image_key
from csr_core.evaluation.objects import category_of

POPE_CATEGORIES = ("random", "popular", "adversarial")


@dataclass(frozen=True)
class Instances:
    """What is in the pictures of a COCO instances file."""

    truth: dict[int | str, set[str]]  # image id -> categories
    image_of_file: dict[str, int | str]  # file name -> image id
    categories: tuple[str, ...]
    companions: dict[str, str]  # trigger -> companion, of `info.companions`; empty for real data


@dataclass(frozen=True)
class Box:
    """One annotated object: its category and (x, y, width, height) in pixels; None where the file has no box.

    `crowd`: the box is around several that were not told apart.
    """

    name: str
    place: tuple[float, float, float, float] | None = None
    crowd: bool = False


@dataclass(frozen=True)
class Annotated:
    """A picture by the name of its file, with what is annotated in it."""

    file: str
    boxes: tuple[Box, ...]

    @property
    def names(self) -> list[str]:
        """The categories that are there, each once, in alphabetical order."""
        return sorted({box.name for box in self.boxes})


@dataclass(frozen=True)
class Annotations:
    """A COCO instances file with its boxes; `companions` (trigger -> companion) is empty for real data."""

    pictures: list[Annotated]
    categories: tuple[str, ...]
    companions: dict[str, str]


def read_rows(path: Path, fields: Sequence[str | tuple[str, ...]]) -> list[dict[str, Any]]:
    """The rows of a file of one JSON object a line, or of one JSON list.

    `fields` are the names a row must have; a tuple means one of its names. Single rows that lack one are kept (scorers
    leave them out by name); the file is refused where all of them do.

    Raises:
        InputError: no such file, broken JSON (with its line), no rows, or a field that no row has.
    """
    text = _text(path)
    wanted = ", ".join(field if isinstance(field, str) else " or ".join(field) for field in fields)
    if text.lstrip().startswith("["):
        rows = _json(path, text)
    else:
        rows = []
        for number, line in enumerate(text.split("\n"), 1):  # not at the other line ends that a text may hold
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise InputError(
                        f"{path}, line {number}: broken JSON ({error.msg}): {line[:80]!r}. Expected one object a line "
                        f"with {wanted}; was the file cut off while it was written?"
                    ) from error
    rows = [row if isinstance(row, dict) else {"row": row} for row in rows]
    if not rows:
        raise InputError(f"{path} holds no rows: expected one JSON object a line with {wanted}")
    for field in fields:
        options = (field,) if isinstance(field, str) else field
        if not any(option in row for row in rows for option in options):
            raise InputError(
                f"{path}: no row has {' or '.join(map(repr, options))}; the first has {sorted(rows[0])}. Expected rows "
                f"with {wanted}: is this the right file?"
            )
    return rows


def read_instances(path: Path) -> Instances:
    """COCO's instances format.

    Raises:
        InputError: not such a file, or categories that the CHAIR word list does not know.
    """
    data = _coco(path, {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id", "name")})
    categories = {}
    for row in data["categories"]:
        categories[row["id"]] = category_of(str(row["name"]).lower())
    unknown = [row["name"] for row in data["categories"] if categories[row["id"]] is None]
    if unknown:
        raise InputError(
            f"{path}: categories {unknown[:10]} are not among COCO's 80, and CHAIR has no words for others: "
            "rename or remove them"
        )
    truth: dict[int | str, set[str]] = {image_key(row["id"]): set() for row in data["images"]}
    for row in data["annotations"]:
        if row["category_id"] not in categories:
            raise InputError(
                f"{path}: an annotation has category_id {row['category_id']!r}, which 'categories' lacks: was the file "
                "put together from two?"
            )
        truth.setdefault(image_key(row["image_id"]), set()).add(str(categories[row["category_id"]]))
    files = {str(row["file_name"]): image_key(row["id"]) for row in data["images"] if "file_name" in row}
    names = tuple(dict.fromkeys(str(name) for name in categories.values()))
    return Instances(truth, files, names, _companions(data))


def read_annotations(path: Path) -> Annotations:
    """COCO's instances format with its boxes; the categories can be any.

    Raises:
        InputError: not such a file.
    """
    data = _coco(path, {"images": ("id",), "annotations": ("image_id", "category_id"), "categories": ("id", "name")})
    names = {row["id"]: str(row["name"]).lower() for row in data["categories"]}
    boxes: dict[int | str, list[Box]] = {image_key(row["id"]): [] for row in data["images"]}
    for row in data["annotations"]:
        if row["category_id"] not in names:
            raise InputError(
                f"{path}: an annotation has category_id {row['category_id']!r}, which 'categories' lacks: was the file "
                "put together from two?"
            )
        place = row.get("bbox")
        known = isinstance(place, list) and len(place) == 4 and all(isinstance(x, int | float) for x in place)
        box = Box(names[row["category_id"]], tuple(place) if known else None, bool(row.get("iscrowd")))
        boxes.setdefault(image_key(row["image_id"]), []).append(box)
    named = [row for row in data["images"] if "file_name" in row]
    pictures = [Annotated(str(row["file_name"]), tuple(boxes[image_key(row["id"])])) for row in named]
    return Annotations(pictures, tuple(dict.fromkeys(names.values())), _companions(data))


def read_references(path: Path) -> dict[int | str, list[str]]:
    """COCO's captions format: image id -> what people wrote about it."""
    references: dict[int | str, list[str]] = {}
    for row in _coco(path, {"annotations": ("image_id", "caption")})["annotations"]:
        references.setdefault(image_key(row["image_id"]), []).append(str(row["caption"]))
    return references


def read_questions(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The questions of POPE's own files, each with a `category`.

    POPE numbers the questions of each of its files from 1, so a question is known by (category, question_id). Its
    category is the row's own; else the last part of a file name such as `coco_pope_popular.json`; else, of several
    files, the whole name.
    """
    rows = []
    for path in paths:
        tail = path.stem.rsplit("_", 1)[-1]
        category = tail if tail in POPE_CATEGORIES else (path.stem if len(paths) > 1 else "")
        for row in read_rows(path, ("question_id", "label")):
            rows.append({**row, "category": str(row.get("category") or category)})
    return rows


def _companions(data: dict[str, Any]) -> dict[str, str]:
    info = data.get("info")
    found = info.get("companions", {}) if isinstance(info, dict) else {}
    return {str(trigger): str(companion) for trigger, companion in found.items()}


def _coco(path: Path, parts: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    data = _json(path, _text(path))
    kind = "captions" if len(parts) == 1 else "instances"
    if not isinstance(data, dict) or any(not isinstance(data.get(part), list) for part in parts):
        has = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise InputError(
            f"{path}: expected COCO's {kind} format, an object with the lists {', '.join(parts)}; got {has}. "
            "Were two files of the command line mixed up?"
        )
    for part, fields in parts.items():
        for number, row in enumerate(data[part], 1):
            missing = [f for f in fields if not isinstance(row, dict) or f not in row]
            if missing:
                raise InputError(f"{path}: entry {number} of {part!r} lacks {missing}: expected COCO's {kind} format")
    return data


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}, line {error.lineno}: broken JSON ({error.msg}). Expected one JSON document: was the file "
            "cut off, or is it one of captions or answers, with an object a line?"
        ) from error


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"expected a file at {path}, found none: check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder: expected a file in it to be named") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}): expected JSON") from error
