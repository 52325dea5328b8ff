"""Read prompts in any of the accepted forms, and check each one and its picture before a GPU sees it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csr_core.errors import InputError


@dataclass
class PromptSet:
    """Usable prompts, and what was left out with the reason."""

    # prompt_id, image (path), prompt; of several pictures also images (all paths)
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)  # prompt_id, reason

    def drop(self, prompt_id: str, reason: str) -> None:
        self.left_out.append({"prompt_id": prompt_id, "reason": reason})


def read_prompts(
    source: Path, images: Path | None, max_characters: int = 4000, extract: Path | None = None
) -> PromptSet:
    """Prompts of a JSON or JSONL file, or of a Hugging Face dataset on disk.

    Rows hold `id, image, prompt`, or the authors' `id, image, input` with `<image>` in the text (taken out, with its
    line break). `image` is a path below `images` (default: the file's folder), or a list of such paths, which may
    also stand under `images`; pictures held inside a dataset are written to `extract`. Bad rows are left out and named.

    Raises:
        InputError: the source is missing, is not JSON, or holds no usable row.
    """
    if not source.exists():
        raise InputError(
            f"data.prompts: expected a file or a dataset folder at {source}, found nothing: check the path"
        )
    rows = _dataset_rows(source, extract) if source.is_dir() else _file_rows(source)
    folder = images if images is not None else (source if source.is_dir() else source.parent)
    found = PromptSet()
    seen: Counter[str] = Counter()
    for number, row in enumerate(rows):
        _add(found, seen, row, number, folder, max_characters)
    if not found.rows:
        reasons = Counter(item["reason"].split(":")[0] for item in found.left_out)
        raise InputError(f"no usable prompt in {source} ({dict(reasons) or 'the file is empty'}): see docs/data.md")
    return found


def _add(found: PromptSet, seen: Counter[str], row: Any, number: int, folder: Path, max_characters: int) -> None:
    if isinstance(row, str):  # a line that is not JSON
        return found.drop(f"line {number + 1}", row)
    if not isinstance(row, dict):
        return found.drop(
            f"row {number + 1}", f"not an object: expected id, image and prompt, got {type(row).__name__}"
        )
    prompt_id = str(row.get("id", row.get("prompt_id", f"{number:06d}")))
    text = row.get("prompt", row.get("input"))
    paths = _paths(row)
    if not isinstance(text, str) or not paths:
        return found.drop(
            prompt_id, f"fields missing: expected image (or images) and prompt (or input) as text, got {sorted(row)}"
        )
    text = text.replace("<image>\n", "").replace("\n<image>", "").replace("<image>", "").strip()
    if not text:
        return found.drop(prompt_id, "empty prompt: nothing is asked")
    if len(text) > max_characters:
        return found.drop(
            prompt_id, f"prompt too long: {len(text)} characters, data.max_prompt_characters = {max_characters}"
        )
    if prompt_id in seen:
        return found.drop(prompt_id, "duplicate id: an earlier row has it")
    key = json.dumps([paths if len(paths) > 1 else paths[0], text])
    if key in seen:
        return found.drop(prompt_id, "duplicate prompt: an earlier row asks the same of the same picture")
    seen.update([prompt_id, key])
    whole = [str(folder / path) for path in paths]
    several = {"images": whole} if len(whole) > 1 else {}
    found.rows.append({"prompt_id": prompt_id, "image": whole[0], "prompt": text, **several})
    return None


def _paths(row: dict[str, Any]) -> list[str]:
    """The pictures of a row, from `image` or `images`; none where anything else stands there."""
    given = row.get("image") if row.get("image") is not None else row.get("images")
    listed = given if isinstance(given, list) else [given]
    paths = [path for path in listed if isinstance(path, str)]
    return paths if len(paths) == len(listed) else []


def _file_rows(source: Path) -> list[Any]:
    try:
        text = source.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source} is not UTF-8 text: expected JSON or JSONL ({error})") from error
    if source.suffix == ".jsonl":
        return [_line(line) for line in text.splitlines() if line.strip()]
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{source} is not JSON (line {error.lineno}: {error.msg}); lines of JSON need the name *.jsonl"
        ) from error
    if not isinstance(rows, list):
        raise InputError(f"{source}: expected a list of prompts, got {type(rows).__name__}")
    return rows


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg}"


def _dataset_rows(source: Path, extract: Path | None) -> list[Any]:
    from datasets import DatasetDict, Image, List, load_from_disk

    try:
        dataset = load_from_disk(str(source))
    except (FileNotFoundError, OSError, ValueError) as error:
        raise InputError(
            f"{source} is a folder, but not a Hugging Face dataset saved with save_to_disk: {error}"
        ) from error
    if isinstance(dataset, DatasetDict):
        dataset = dataset["train"] if "train" in dataset else next(iter(dataset.values()))
    for name in ("image", "images"):  # a broken picture is found later, with its name
        kind = dataset.features.get(name)
        if isinstance(kind, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
        elif isinstance(kind, List) and isinstance(kind.feature, Image):
            dataset = dataset.cast_column(name, List(Image(decode=False)))
    return [_with_files(dict(row), number, extract) for number, row in enumerate(dataset)]


def _with_files(row: dict[str, Any], number: int, extract: Path | None) -> dict[str, Any]:
    """Give pictures that are held inside the dataset files below `extract`."""
    for name in ("image", "images"):
        held = row.get(name)
        if isinstance(held, list):
            row[name] = [_file(one, f"{number:06d}-{place}", extract) for place, one in enumerate(held)]
        else:
            row[name] = _file(held, f"{number:06d}", extract)
    return row


def _file(image: Any, stem: str, extract: Path | None) -> Any:
    if not isinstance(image, dict):
        return image
    if not image.get("bytes") or extract is None:
        return image.get("path")
    extract.mkdir(parents=True, exist_ok=True)
    file = extract / f"{stem}{Path(image.get('path') or '.png').suffix}"
    file.write_bytes(image["bytes"])
    return str(file.resolve())
