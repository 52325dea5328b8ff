"""Read prompts in any of the accepted forms, and check each one and its picture before a GPU sees it."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csr_core.config import DataSettings
from csr_core.errors import InputError
from csr_core.images import find_image
from csr_core.prompt_sources import FORMS, is_hub_name, read_rows

MINIATURE = "miniature"
ASKING = ("prompt", "input", "question", "conversations", "messages")  # the first of them that a row has is its prompt
# The authors' preference sets hold the prompt as their model saw it: Vicuna's system text, the turn, "ASSISTANT:".
VICUNA = re.compile(
    r"A chat between a curious \w+ and an artificial intelligence assistant\..*?\bUSER:(.*)ASSISTANT:", re.S
)


@dataclass
class PromptSet:
    """Usable prompts, and what was left out with the reason."""

    # prompt_id, image (path), prompt; of several pictures also images (all paths)
    rows: list[dict[str, Any]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)  # prompt_id, reason

    def drop(self, prompt_id: str, reason: str) -> None:
        self.left_out.append({"prompt_id": prompt_id, "reason": reason})


def prompts_of(data: DataSettings, extract: Path | None = None) -> PromptSet:
    """The prompts that the settings name; see `read_prompts`."""
    images = Path(data.images) if data.images else None
    return read_prompts(data.prompts, images, data.max_prompt_characters, extract, data.prompt)


def local_paths(data: DataSettings) -> list[str]:
    """The files and folders that the settings name; the miniature has none, and what is on a hub counts by its name."""
    prompts = [] if data.prompts == MINIATURE or is_hub_name(data.prompts) else [data.prompts]
    return [*prompts, *([data.images] if data.images and data.prompts != MINIATURE else [])]


def read_prompts(
    source: Path | str,
    images: Path | None,
    max_characters: int = 4000,
    extract: Path | None = None,
    prompt: str | None = None,
) -> PromptSet:
    """Prompts of a file, a folder of pictures, or a Hugging Face dataset on disk or by name (`prompt_sources.FORMS`).

    Of a conversation the first turn of the human is the prompt; answers are never read. `<image>` in a text is taken
    out, with its line break. `image` is a path below `images` (default: the file's folder), or a list of such paths,
    which may also stand under `images`; COCO's two ways of naming its pictures are understood. Pictures held inside a
    dataset are written to `extract`. Bad rows are left out and named.

    Raises:
        InputError: the source is missing, is of no accepted form, or holds no usable row.
    """
    rows = read_rows(source, extract, prompt)
    if images is None:
        images = Path() if is_hub_name(source) else Path(source) if Path(source).is_dir() else Path(source).parent
    found = PromptSet()
    seen: Counter[str] = Counter()
    for number, row in enumerate(rows):
        _add(found, seen, row, number, images, max_characters)
    if not found.rows:
        reasons = Counter(item["reason"].split(":")[0] for item in found.left_out)
        raise InputError(f"no usable prompt in {source} ({dict(reasons) or 'it is empty'}). {FORMS}")
    return found


def _add(found: PromptSet, seen: Counter[str], row: Any, number: int, folder: Path, max_characters: int) -> None:
    if isinstance(row, str):  # a line that is not JSON
        return found.drop(f"line {number + 1}", row)
    if not isinstance(row, dict):
        return found.drop(
            f"row {number + 1}", f"not an object: expected id, image and prompt, got {type(row).__name__}"
        )
    prompt_id = id_of(row, f"{number:06d}")
    if "conversations" in row and prompt_id in seen:
        prompt_id = f"{prompt_id}#{seen[prompt_id] + 1}"  # LLaVA's ids name pictures: one may be asked about again
    text, paths = question_of(row), pictures_in(row)
    if text is None or not paths:
        return found.drop(
            prompt_id, f"fields missing: expected image (or images) and prompt (or input) as text, got {sorted(row)}"
        )
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
    seen.update({prompt_id, id_of(row, prompt_id), key})
    whole = [str(find_image(folder, path)) for path in paths]
    several = {"images": whole} if len(whole) > 1 else {}
    found.rows.append({"prompt_id": prompt_id, "image": whole[0], "prompt": text, **several})
    return None


def id_of(row: dict[str, Any], otherwise: str) -> str:
    return next((str(row[name]) for name in ("id", "prompt_id", "question_id") if row.get(name) is not None), otherwise)


def question_of(row: dict[str, Any]) -> str | None:
    """What a row asks, without its picture's mark; None where it has no text that asks."""
    asked = next((_asked(row[name]) for name in ASKING if row.get(name) is not None), None)
    if asked is None:
        return None
    if found := VICUNA.fullmatch(asked.strip()):
        asked = found[1]
    return asked.replace("<image>\n", "").replace("\n<image>", "").replace("<image>", "").strip()


def _asked(value: Any) -> str | None:
    """A text as it is; of messages the first one that a human says."""
    if isinstance(value, str):
        return value
    turns = [turn for turn in value if isinstance(turn, dict)] if isinstance(value, list) else []
    first = next((turn for turn in turns if turn.get("from", turn.get("role")) in ("human", "user")), {})
    said = first.get("value", first.get("content"))
    if isinstance(said, list):  # parts: pictures and texts
        said = "".join(part.get("text") or "" for part in said if isinstance(part, dict))
    return said if isinstance(said, str) else None


def pictures_in(row: dict[str, Any]) -> list[str]:
    """The pictures of a row, from `image` or `images`; none where anything else stands there."""
    given = row.get("image") if row.get("image") is not None else row.get("images")
    listed = given if isinstance(given, list) else [given]
    paths = [path for path in listed if isinstance(path, str)]
    return paths if len(paths) == len(listed) else []


def picture_of(row: dict[str, Any]) -> str | None:
    """The one picture that a row names."""
    paths = pictures_in(row)
    return paths[0] if len(paths) == 1 else None
