"""Preference pairs brought in from elsewhere, in place of those an iteration would make.

`bring_in` checks and converts a set once, into `imported/iter_K`; `take_over` is stage `pair` of an iteration that
`pair.imported` names, for which generate and score are left out.
"""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa

from csr_core.dvcfile import render
from csr_core.errors import SettingsError
from csr_core.layout import Layout
from csr_core.params import load_settings, with_values
from csr_core.preference.card import imported_card
from csr_core.preference.diversity import margin_report, text_report
from csr_core.preference.exchange import read_preferences
from csr_core.records import PREFERENCES, publish, read_json, read_table, write_json, write_table
from csr_core.stages.plan import plan
from csr_core.stages.runner import run_stage

# The pictures' digests: what a fine-tuning on these pairs depends on, although they name pictures by path.
IMPORTED = PREFERENCES.append(pa.field("image_sha256", pa.list_(pa.string())))


def import_into(
    source: Path | str, images: Path | None, iteration: int, params: Path, layout: Layout, replace: bool = False
) -> dict[str, Any]:
    """Make the pairs of `source` those of `iteration`: `bring_in`, `pair.imported` in the file `params`, stage `pair`.

    `dvc.yaml` beside `params.yaml` is written anew where there is one. Returns the summary of `bring_in`.

    Raises:
        SettingsError: the iteration has pairs already and `replace` is not asked for, or `params` cannot be changed.
        InputError: see `read_preferences`.
    """
    settings = load_settings(params)
    numbers = sorted({*settings.pair.imported, iteration})
    changed = with_values(params.read_text("utf-8"), {"pair.imported": numbers})
    if layout.preferences(iteration).exists() and not replace:
        raise SettingsError(
            f"iteration {iteration} has pairs already ({layout.preferences(iteration)}): --force puts the imported "
            "ones in their place"
        )
    summary = bring_in(source, images, settings.data.max_pixels, layout.imported(iteration), replace)
    if numbers != settings.pair.imported:
        params.write_text(changed, "utf-8")
    settings = load_settings(params)
    stages = params.parent / "dvc.yaml"
    if stages.is_file() and params.name == "params.yaml":
        stages.write_text(render(settings, params.parent), "utf-8")
    run_stage(plan("pair", iteration, settings, layout), layout)
    return summary


def bring_in(source: Path | str, images: Path | None, max_pixels: int, folder: Path, replace: bool) -> dict[str, Any]:
    """Write the usable pairs of `source` to `folder`: preferences.parquet (IMPORTED schema), summary.json, images/.

    Returns the summary: source (its name), rows, pairs, left_out.

    Raises:
        SettingsError: `folder` is there and `replace` is not asked for.
        InputError: see `read_preferences`.
    """
    if folder.exists() and not replace:
        raise SettingsError(f"{folder} holds imported pairs already: --force puts these in their place")
    made = folder.with_name(f".{folder.name}.{uuid4().hex}.tmp")
    made.mkdir(parents=True)
    try:
        found = read_preferences(source, images, made / "images", max_pixels)
        rows = [{**row, "images": [_final_name(image, made, folder) for image in row["images"]]} for row in found.rows]
        write_table(made / "preferences.parquet", sorted(rows, key=lambda row: str(row["prompt_id"])), IMPORTED)
        counts = {"rows": len(rows) + len(found.left_out), "pairs": len(rows)}
        summary = {"source": Path(source).name, **counts, "left_out": found.left_out}
        write_json(made / "summary.json", summary)
        publish(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return summary


def _final_name(image: str, made: Path, final: Path) -> str:
    """Pictures from inside the set lie in `made` for now and in `final` later; others stay where they are."""
    path = Path(image).absolute()
    if not path.is_relative_to(made.absolute()):
        return image
    path, here = final.absolute() / path.relative_to(made.absolute()), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def take_over(imported: Path, iteration: int, out: Path) -> dict[str, Any]:
    """Write the pairs of the folder `imported` to `out`, as stage `pair` leaves its own: table, summary, card.

    Raises:
        InputError: there is no table of pairs in `imported`.
    """
    rows = read_table(imported, IMPORTED)
    brought = read_json(imported / "summary.json")
    write_table(out / "preferences.parquet", rows, PREFERENCES)
    sides = ([row[side][0]["content"] for row in rows] for side in ("chosen", "rejected"))
    margins = [row["margin"] for row in rows if row["margin"] is not None]
    summary = {
        "imported": brought["source"],
        "prompts": brought["rows"],
        "pairs": len(rows),
        "left_out_by_reason": dict(sorted(Counter(i["reason"].split(":")[0] for i in brought["left_out"]).items())),
        "left_out": brought["left_out"],
        "diversity": {**text_report(*sides), "margin": margin_report(margins) if margins else None},
    }
    write_json(out / "summary.json", summary)
    (out / "README.md").write_text(imported_card(iteration, summary), "utf-8")
    return summary
