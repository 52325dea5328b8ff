"""Preference sets to and from other programs: files, pictures and what is left out."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from csr_core.errors import CsrError, InputError, SettingsError
from csr_core.images import find_image, open_image
from csr_core.preference.forms import TO, from_row
from csr_core.progress import Progress
from csr_core.prompt_sources import is_hub_name, json_rows, read_rows
from csr_core.prompts import PromptSet, picture_of
from csr_core.records import write_json, write_jsonl

FILES = ("preferences.json", "preferences.jsonl")  # of an exported folder
FORMATS = ("authors", "trl", "llama-factory", "ms-swift")
FORMS = """Accepted are preference sets as
  - JSON or lines of JSON: the authors' (id, image, conversations, rejected_conversations), LLaMA-Factory's (images,
    conversations, chosen, rejected) or ms-swift's (images, messages, rejected_response)
  - TRL's (images, prompt, chosen, rejected): Parquet, a dataset on disk, or hf://OWNER/NAME
See docs/data.md."""

USE = {
    "authors": "train with LLaVA's loader: --data_path {out}/preferences.json --image_folder {out}",
    "trl": 'load_dataset("{out}", split="train") gives what DPOTrainer takes',
    "llama-factory": "train with dataset_dir: {out}, dataset: csr",
    "ms-swift": "train with ROOT_IMAGE_DIR={out} swift rlhf --rlhf_type dpo --dataset {out}/preferences.jsonl",
}

Row = dict[str, Any]


def export_preferences(rows: Sequence[Row], form: str, out: Path, copy_images: bool = False) -> PromptSet:
    """Write `rows` (records.PREFERENCES, paths relative to the working folder) to the new folder `out` in `form`.

    Pictures are named relative to `out`, where they are or, with `copy_images`, in `out/images`, so that the folder can
    be moved. TRL's Parquet has no folder that paths start from: it names them absolutely, or holds them.

    Returns: what was written, and what was left out with the reason.

    Raises:
        SettingsError: no such form, or there is something at `out` already.
        InputError: no pair could be written.
    """
    if form not in FORMATS:
        raise SettingsError(f"--format {form}: expected one of {', '.join(FORMATS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out} is there already: give a new folder, so that nothing is mixed or lost")
    made = out.with_name(f".{out.name}.{uuid4().hex}.tmp")
    made.mkdir(parents=True)
    try:
        found = _write(rows, form, made, out, copy_images)
        if out.is_dir():
            out.rmdir()
        os.replace(made, out)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return found


def _write(rows: Sequence[Row], form: str, made: Path, out: Path, copy_images: bool) -> PromptSet:
    found, copies = PromptSet(), Copies(made / "images")
    for row in rows:
        try:
            paths = [Path(image) for image in row["images"]]
            missing = [str(path) for path in paths if not path.is_file()]
            if missing:
                raise InputError(f"{missing[0]} is missing: was it moved after the pairs were made? Put it back")
            if form == "trl":
                found.rows.append({**row, "images": [_held(path, copy_images) for path in paths]})
                continue
            names = [f"images/{copies.add(path)}" if copy_images else _relative(path, out) for path in paths]
            found.rows.append(TO[form](row, names))
        except (ValueError, InputError) as error:
            found.drop(row["prompt_id"], str(error))
    if not found.rows:
        raise InputError(f"none of {len(rows)} pairs can be written: {found.left_out[:3]}")
    if form == "trl":
        _write_trl(found.rows, made)
    elif form == "ms-swift":
        write_jsonl(made / "preferences.jsonl", found.rows)
    else:
        text = json.dumps(found.rows, indent=1, ensure_ascii=False, allow_nan=False)
        (made / "preferences.json").write_text(text + "\n", "utf-8")
    if form == "llama-factory":
        columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}
        told = {"file_name": "preferences.json", "formatting": "sharegpt", "ranking": True, "columns": columns}
        write_json(made / "dataset_info.json", {"csr": told})
    return found


def _held(path: Path, inside: bool) -> Row:
    return {"bytes": path.read_bytes(), "path": path.name} if inside else {"bytes": None, "path": str(path.absolute())}


def _write_trl(rows: Sequence[Row], folder: Path) -> None:
    """`train.parquet`, with the features by which `datasets` gives opened pictures."""
    from datasets import Dataset, Features, Image, List, Value

    messages = List({"role": Value("string"), "content": Value("string")})
    numbers = {name: Value("float64") for name in ("chosen_reward", "rejected_reward", "margin")}
    nodes = {name: List(Value("int32")) for name in ("chosen_nodes", "rejected_nodes")}
    texts = {"prompt": messages, "chosen": messages, "rejected": messages, "prompt_id": Value("string")}
    features = Features({"images": List(Image()), **texts, **numbers, **nodes})
    Dataset.from_list([{name: row[name] for name in features} for row in rows], features=features).to_parquet(
        str(folder / "train.parquet")
    )


class Copies:
    """Pictures copied into one folder; two of one name get two names, one named twice is copied once."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._names = folder, dict[Path, str]()

    def add(self, path: Path) -> str:
        """The name of the copy of `path`."""
        path = path.resolve()
        if path not in self._names:
            name = path.name
            while name in self._names.values():
                name = f"{len(self._names)}-{path.name}"
            self._folder.mkdir(exist_ok=True)
            shutil.copyfile(path, self._folder / name)
            self._names[path] = name
        return self._names[path]


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def read_preferences(source: Path | str, images: Path | None, extract: Path, max_pixels: int) -> PromptSet:
    """Pairs of another program's set, as in records.PREFERENCES with `image_sha256` (a list) beside it.

    `images` is the folder that the paths in the set start from (default: the set's); pictures held inside are written
    to `extract`. Scores and nodes are null where the set has none. Bad rows and pairs whose picture cannot be read are
    left out and named.

    Raises:
        InputError: nothing there, no accepted form, or no usable pair.
    """
    path = Path(source)
    folder = images if images is not None else (path if path.is_dir() else path.parent)
    path = next((path / name for name in FILES if (path / name).is_file()), path)
    if not is_hub_name(source) and path.is_file() and path.suffix != ".parquet":
        rows = json_rows(path, FORMS)
    else:
        rows = read_rows(source, extract, prompt="nothing")  # pictures alone are told to be no pairs
    found, seen = PromptSet(), set[str]()
    with Progress("import", len(rows), "pairs") as bar:
        for number, row in enumerate(rows):
            prompt_id, pair = from_row(row, number)
            try:
                if isinstance(pair, str):
                    raise InputError(pair)
                if prompt_id in seen:
                    raise InputError("duplicate id: an earlier row has it")
                found.rows.append({**pair, **_picture(row, folder, max_pixels)})
                seen.add(prompt_id)
            except CsrError as error:
                found.drop(prompt_id, str(error))
            bar.advance()
    if not found.rows:
        reasons = dict(Counter(item["reason"].split(":")[0] for item in found.left_out))
        raise InputError(f"no usable pair in {source} ({reasons or 'it is empty'}). {FORMS}")
    return found


def _picture(row: Row, folder: Path, max_pixels: int) -> dict[str, list[str]]:
    name = picture_of(row)
    if name is None:
        raise InputError("no picture: expected image, or images with one")
    path = find_image(folder, name)
    if not path.exists() and (folder / Path(name).name).exists():  # a path of the machine the set comes from
        path = folder / Path(name).name
    if not path.exists():
        raise InputError(f"{path} is missing: check --images, the folder that the set's paths start from")
    open_image(path, max_pixels)
    path, here = path.resolve(), Path.cwd().resolve()
    named = path.relative_to(here) if path.is_relative_to(here) else path
    return {"images": [str(named)], "image_sha256": [hashlib.sha256(path.read_bytes()).hexdigest()]}
