"""A held-out split: a folder of pictures with prompts, ground truth and questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csr_core.errors import InputError
from csr_core.evaluation.chair import fold_references, image_key
from csr_core.evaluation.objects import ObjectParser, object_parser, reads_as_published
from csr_core.evaluation.sources import Instances, read_instances, read_questions, read_references
from csr_core.prompts import read_prompts

PROMPT_FILES = ("prompts.jsonl", "prompts.json")
QUESTION_FILES = ("questions.jsonl", "questions.json")


@dataclass
class Split:
    """What is asked about each picture, and what is there.

    Rows of `captions`: image_id, image (as the file has it), path, prompt; of `questions`: as POPE's, with category
    and path.
    """

    name: str
    truth: dict[int | str, set[str]]
    companions: dict[str, str]
    parser: ObjectParser
    captions: list[dict[str, Any]] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)


def read_split(name: str, folder: Path, count: int | None = None) -> Split:
    """The split in `folder`; with `count`, its first `count` pictures alone.

    The folder holds `images/`, `instances.json`, and `prompts.jsonl` (or .json), questions, or both; `captions.json`
    with reference captions where there are some. Questions: `questions.jsonl`, or POPE's own files (`*pope*.json`).

    Raises:
        InputError: the folder or a file it needs is missing or unusable.
    """
    if not folder.is_dir():
        raise InputError(f"evaluate.splits.{name}: expected a folder at {folder}, found none: check the path")
    found = read_instances(folder / "instances.json")
    parser = object_parser(reads_as_published(found.categories))
    truth = found.truth
    if (folder / "captions.json").is_file():
        truth = fold_references(truth, read_references(folder / "captions.json"), parser)
    split = Split(name, truth, found.companions, parser)
    _add_captions(split, folder, found)
    _add_questions(split, folder)
    if not split.captions and not split.questions:
        raise InputError(
            f"evaluate.splits.{name}: {folder} has nothing to ask: expected prompts.jsonl (id, image, prompt), "
            f"{' or '.join(QUESTION_FILES)}, or POPE's files named *pope*.json"
        )
    if count is not None:
        chosen = set(list(dict.fromkeys(row["path"] for row in (*split.captions, *split.questions)))[:count])
        split.captions = [row for row in split.captions if row["path"] in chosen]
        split.questions = [row for row in split.questions if row["path"] in chosen]
    return split


def files_to_ask(folder: Path) -> list[Path]:
    """The files of a split with prompts and questions, those that `read_split` reads."""
    return [*_prompt_files(folder), *_question_files(folder)]


def _prompt_files(folder: Path) -> list[Path]:
    return [folder / name for name in PROMPT_FILES if (folder / name).is_file()][:1]


def _question_files(folder: Path) -> list[Path]:
    own = [folder / name for name in QUESTION_FILES if (folder / name).is_file()]
    return own[:1] or sorted(folder.glob("*pope*.json*"))


def _add_captions(split: Split, folder: Path, found: Instances) -> None:
    files = _prompt_files(folder)
    if not files:
        return
    prompts = read_prompts(files[0], Path())
    split.left_out += prompts.left_out
    for row in prompts.rows:
        if row.get("images"):
            reason = "several pictures: what is there is known of one picture, so captions are asked of one"
            split.left_out.append({"prompt_id": row["prompt_id"], "reason": reason})
            continue
        image = found.image_of_file.get(Path(row["image"]).name, image_key(row["prompt_id"]))
        path = _picture(folder, row["image"])
        split.captions.append({"image_id": image, "image": row["image"], "path": path, "prompt": row["prompt"]})


def _add_questions(split: Split, folder: Path) -> None:
    for number, row in enumerate(read_questions(_question_files(folder)), 1):
        if all(isinstance(row.get(key), str) for key in ("image", "text", "label")) and "question_id" in row:
            split.questions.append({**row, "path": _picture(folder, row["image"])})
        else:
            reason = f"question row {number}: expected question_id, image, text and label, got {sorted(row)}"
            split.left_out.append({"prompt_id": f"{row.get('category')}/{row.get('question_id')}", "reason": reason})


def _picture(folder: Path, name: str) -> Path:
    """`name` below the folder, or below its `images/` where files are named without it."""
    return folder / name if (folder / name).exists() else folder / "images" / Path(name).name
