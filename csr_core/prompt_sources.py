"""Rows of prompts from wherever they lie: JSON, Parquet, a folder of pictures, a Hugging Face dataset."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from csr_core.errors import InputError, SettingsError

HUB = "hf://"
HUB_NAME = re.compile(
    r"hf://(?P<name>[^/@:\s]+/[^/@:\s]+)(?:/(?P<config>[^@:\s]+))?(?:@(?P<revision>[^:\s]+))?(?::(?P<split>\S+))?"
)
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
FORMS = """Accepted for data.prompts are
  - a JSON list or lines of JSON: id, image, and prompt, input (the authors'), question or conversations (LLaVA's)
  - a folder of pictures, each asked data.prompt
  - a Parquet file or a folder of them, or a Hugging Face dataset on disk (save_to_disk), with the same columns
  - hf://OWNER/NAME, a Hugging Face dataset by name; with hf://OWNER/NAME/CONFIG@REVISION:SPLIT where more is to be said
See docs/data.md."""
SOON_BYTES = 200_000_000  # of JSON
BATCH = 64  # rows held in memory at once where pictures are inside

Row = dict[str, Any]


def read_rows(source: Path | str, extract: Path | None, prompt: str | None) -> list[Any]:
    """The rows of `source` as they are; a line that is not JSON is given as text that says so.

    Which form it is, the content tells, not the name. Pictures held inside a dataset are written to `extract`; `prompt`
    is what a folder of pictures is asked.

    Raises:
        InputError: there is nothing at `source`, or nothing of an accepted form, or a dataset cannot be had.
        SettingsError: `source` is no dataset's name although it begins so, or pictures have no prompt.
    """
    if is_hub_name(source):
        return _with_files(_hub_batches(str(source)), extract)
    path = Path(source)
    if not path.exists():
        raise InputError(f"data.prompts: expected a file or a folder at {path}, found nothing: check the path. {FORMS}")
    if path.is_dir():
        return _folder_rows(path, extract, prompt)
    with path.open("rb") as file:
        parquet = file.read(4) == b"PAR1"
    return _with_files(_parquet_batches([path]), extract) if parquet else json_rows(path, FORMS)


def is_hub_name(source: Path | str) -> bool:
    return str(source).startswith(HUB)


def is_read_soon(source: Path | str) -> bool:
    """Whether all rows are read in seconds: a folder of pictures, or JSON that is not huge; not a dataset."""
    path = Path(source)
    if is_hub_name(source) or path.is_file():
        return path.is_file() and path.stat().st_size <= SOON_BYTES and path.suffix.lower() != ".parquet"
    saved = any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))
    return not saved and next(path.rglob("*.parquet"), None) is None


def json_rows(path: Path, forms: str) -> list[Any]:
    """Rows of a JSON list, or of lines of JSON; a line that is not JSON is given as text that says so.

    Raises:
        InputError: not UTF-8, or neither; `forms` says what would be.
    """
    try:
        text = path.read_text("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: expected JSON ({error}). {forms}") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if text.startswith("[") or not lines:
        return _json_list(path, text, forms)
    rows = [_line(line) for line in lines]
    if not any(isinstance(row, dict) and row for row in rows):
        found = next((row for row in rows if isinstance(row, str)), f"objects with {rows[0]!r}")
        raise InputError(f"{path} is neither a JSON list nor lines of JSON objects (line 1: {found}). {forms}")
    return rows


def _json_list(path: Path, text: str, forms: str) -> list[Any]:
    try:
        return list(json.loads(text)) if text else []
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON (line {error.lineno}: {error.msg}): is it cut off? {forms}") from error


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return f"not JSON: {error.msg}"


def _folder_rows(folder: Path, extract: Path | None, prompt: str | None) -> list[Any]:
    if any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        return _with_files(_saved_batches(folder), extract)
    if tables := sorted(folder.rglob("*.parquet")):
        train = [table for table in tables if table.name.startswith("train")]
        return _with_files(_parquet_batches(train or tables), extract)
    names = [
        path.relative_to(folder).as_posix()
        for path in (Path(place, name) for place, _, files in os.walk(folder, followlinks=True) for name in files)
        if path.suffix.lower() in PICTURES and not path.name.startswith(".")
    ]
    if not names:
        raise InputError(f"{folder} holds neither a dataset nor pictures. {FORMS}")
    if not (prompt or "").strip():
        raise SettingsError(
            f"data.prompts is {folder}, a folder of pictures, and data.prompt is empty: say what to ask"
        )
    return [{"id": name, "image": str((folder / name).absolute()), "prompt": prompt} for name in sorted(names)]


def _parquet_batches(files: Iterable[Path]) -> Iterator[list[Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for file in files:
        try:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=BATCH):
                yield batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{file} is not Parquet that can be read ({error}): fetch it again. {FORMS}") from error


def _saved_batches(folder: Path) -> Iterator[list[Row]]:
    from datasets import load_from_disk

    try:
        dataset = load_from_disk(str(folder))
    except (FileNotFoundError, OSError, ValueError) as error:
        raise InputError(f"{folder} is not a whole Hugging Face dataset ({error}): save it again. {FORMS}") from error
    return _batches(dataset)


def _hub_batches(source: str) -> Iterator[list[Row]]:
    from datasets import load_dataset

    found = HUB_NAME.fullmatch(source)
    if found is None:
        raise SettingsError(f"data.prompts: {source} is no dataset's name: expected hf://OWNER/NAME. {FORMS}")
    name = found["name"]
    try:
        dataset = load_dataset(name, found["config"], split=found["split"], revision=found["revision"])
    except (OSError, ValueError, RuntimeError) as error:  # no network, no such dataset or split, gated
        offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
        raise InputError(
            f"the dataset {name} cannot be had ({str(error).strip():.400}). "
            + ("HF_HUB_OFFLINE is set, so only what was loaded before is there. " if offline else "")
            + "Check the name; if it is gated, accept its terms and log in (`hf auth login`). Without network here: "
            f"fetch it elsewhere with `hf download --repo-type dataset {name} --local-dir FOLDER`, bring FOLDER and "
            "set data.prompts to it"
        ) from error
    return _batches(dataset)


def _batches(dataset: Any) -> Iterator[list[Row]]:
    """Rows as they are stored: a broken picture is not opened here, but found later, with its name."""
    from datasets import DatasetDict

    if isinstance(dataset, DatasetDict):
        dataset = dataset["train"] if "train" in dataset else next(iter(dataset.values()))
    return (table.to_pylist() for table in dataset.with_format("arrow").iter(batch_size=BATCH))


def _with_files(batches: Iterable[list[Row]], extract: Path | None) -> list[Any]:
    """Give each picture that is held inside the rows a file below `extract`; its bytes are let go."""
    rows: list[Any] = []
    for row in (row for batch in batches for row in batch):
        number = f"{len(rows):06d}"
        if isinstance(row.get("image"), dict):
            row["image"] = _file(row["image"], number, extract)
        if isinstance(row.get("images"), list):
            row["images"] = [
                _file(image, f"{number}-{place}", extract) if isinstance(image, dict) else image
                for place, image in enumerate(row["images"])
            ]
        rows.append(row)
    return rows


def _file(image: Row, name: str, extract: Path | None) -> str | None:
    path = image.get("path")
    if not image.get("bytes"):
        return path
    file = (extract or Path()) / f"{name}{Path(path or 'x.png').suffix}"
    if extract is not None:
        extract.mkdir(parents=True, exist_ok=True)
        file.write_bytes(image["bytes"])
    return str(file.absolute())
