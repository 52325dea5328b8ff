"""Stage `prepare`: the prompts of an iteration, checked, in one form; for the base, the miniature's held-out splits."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

from csr_core.config import Settings
from csr_core.errors import InputError
from csr_core.images import open_image
from csr_core.progress import Progress
from csr_core.prompts import MINIATURE, PromptSet, prompts_of, read_prompts
from csr_core.records import PROMPTS, pictures_of, write_json, write_table


def prepare(settings: Settings, iteration: int, out: Path, final: Path) -> dict[str, Any]:
    """Write `out/prompts.parquet` (PROMPTS schema) with the prompts of `iteration` whose pictures can be read.

    `final` is where `out` will lie in the end: pictures made here are named by it. Pictures that cannot be read are
    left out and named in `out/summary.json`.

    Raises:
        InputError: no prompt is left.
    """
    found = (
        _miniature(settings, iteration, out) if settings.data.prompts == MINIATURE else _own(settings, iteration, out)
    )
    rows = []
    with Progress("prepare", len(found.rows), "pictures") as bar:
        for row in found.rows:
            try:
                rows.append(_checked(row, settings.data.max_pixels, out, final))
            except InputError as error:
                found.drop(row["prompt_id"], str(error))
            bar.advance()
    if not rows:
        examples = "; ".join(item["reason"] for item in found.left_out[:3])
        raise InputError(f"none of the {len(found.rows)} prompts has a picture that can be read. {examples}")
    write_table(out / "prompts.parquet", rows, PROMPTS)
    summary = {"prompts": len(rows), "left_out": found.left_out}
    write_json(out / "summary.json", summary)
    return summary


def _checked(row: dict[str, Any], max_pixels: int, out: Path, final: Path) -> dict[str, Any]:
    """The row of PROMPTS for a prompt all of whose pictures can be opened."""
    names, digests = [], []
    for image in pictures_of(row):
        open_image(image, max_pixels)
        digests.append(hashlib.sha256(Path(image).read_bytes()).hexdigest())
        names.append(_final_name(Path(image), out, final))
    several = {"images": names, "images_sha256": digests} if len(names) > 1 else {}
    return {**row, "image": names[0], "image_sha256": digests[0], **several}


def prepare_splits(settings: Settings, out: Path) -> dict[str, Any]:
    """Draw the held-out splits that the settings name `miniature:NAME`, each as a folder like any real data set's."""
    from csr_core.miniature.dataset import write_split

    summary = {}
    for name, split in settings.evaluate.splits.items():
        source, _, kind = split.folder.partition(":")
        if source == MINIATURE:
            # The held-out scenes are the same for every run: results of different seeds stay comparable.
            summary[name] = write_split(out / name, kind or name, count=split.count or 500, seed=0)
    write_json(out / "summary.json", summary)
    return summary


def _miniature(settings: Settings, iteration: int, out: Path) -> PromptSet:
    from csr_core.miniature.dataset import write_split

    count = settings.data.per_iteration or 300
    write_split(out, "train", count=count, seed=settings.seed, iteration=iteration, questions_per_image=0)
    return read_prompts(out / "prompts.jsonl", out)


def _own(settings: Settings, iteration: int, out: Path) -> PromptSet:
    data = settings.data
    found = prompts_of(data, out / "images")
    count = min(data.per_iteration or len(found.rows), len(found.rows))
    order = sorted(found.rows, key=lambda row: str(row["prompt_id"]))
    random.Random(settings.seed).shuffle(order)
    start = (iteration - 1) * count % len(order)
    found.rows = sorted((order + order)[start : start + count], key=lambda row: str(row["prompt_id"]))
    return found


def _final_name(image: Path, out: Path, final: Path) -> str:
    """Where the picture will lie, relative to the working folder where it lies below it."""
    image, out = image.resolve(), out.resolve()
    if image.is_relative_to(out):
        image = final.resolve() / image.relative_to(out)
    here = Path.cwd().resolve()
    return str(image.relative_to(here)) if image.is_relative_to(here) else str(image)
