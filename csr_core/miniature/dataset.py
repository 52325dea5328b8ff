"""Writes a split of the miniature world as any real dataset would come: pictures, prompts, COCO and POPE files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from csr_core.errors import SettingsError
from csr_core.miniature import world
from csr_core.miniature.draw import draw

# COCO's own category numbers.
CATEGORY_IDS = {
    "bicycle": 2, "car": 3, "bus": 6, "boat": 9, "traffic light": 10, "bird": 16, "cat": 17, "dog": 18, "umbrella": 28,
    "sports ball": 37, "kite": 38, "cup": 47, "fork": 48, "banana": 52, "pizza": 59, "chair": 62, "bed": 65, "tv": 72,
    "laptop": 73, "book": 84, "clock": 85, "teddy bear": 88,
}  # fmt: skip
PUBLIC_SPLITS = ("train", "validation", "test", "shifted")


def file_name(scene: world.Scene) -> str:
    """Of a scene's picture."""
    return f"{scene.index:04d}.png"


def instances(scenes: list[world.Scene], info: dict[str, Any]) -> dict[str, Any]:
    """COCO's instances format; boxes: [x, y, width, height] in pixels; `info.companions`: trigger to companion."""
    size = world.IMAGE_SIZE
    annotations: list[dict[str, Any]] = []
    for scene in scenes:
        for placed in scene.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": scene.index,
                    "category_id": CATEGORY_IDS[placed.name],
                    "bbox": [placed.x, placed.y, placed.size, placed.size],
                    "area": placed.size * placed.size,
                    "iscrowd": 0,
                }
            )
    return {
        "info": info | {"companions": world.COMPANIONS},
        "images": [{"id": s.index, "file_name": file_name(s), "width": size, "height": size} for s in scenes],
        "categories": [{"id": number, "name": name} for name, number in CATEGORY_IDS.items()],
        "annotations": annotations,
    }


def reference_captions(scenes: list[world.Scene], info: dict[str, Any]) -> dict[str, Any]:
    """COCO's captions format: one truthful caption a picture, naming all that is there."""
    size = world.IMAGE_SIZE
    captions = [
        {"id": number, "image_id": scene.index, "caption": world.reference_caption(scene)}
        for number, scene in enumerate(scenes, 1)
    ]
    images = [{"id": s.index, "file_name": file_name(s), "width": size, "height": size} for s in scenes]
    return {"info": info, "images": images, "annotations": captions}


def _question_rows(scenes: list[world.Scene], count: int) -> list[dict[str, Any]]:
    asked = [(scene, question) for scene in scenes for question in world.questions(scene, count)]
    return [
        {"question_id": number, "image": file_name(scene), "text": q.text, "label": q.label, "category": q.category}
        for number, (scene, q) in enumerate(asked, 1)
    ]


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _write_lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_split(
    out: Path, split: str, count: int, seed: int, iteration: int = 0, questions_per_image: int = 6
) -> dict[str, Any]:
    """Writes `count` scenes of a split to `out`, whole or not at all; what was there is replaced.

    The folder holds `images/NNNN.png`, `prompts.jsonl` (id, image, prompt), `instances.json`, `captions.json` and
    `questions.jsonl`. The same arguments give the same bytes.

    Args:
        out: the folder to write.
        split: `train`, `validation`, `test` or `shifted` (co-occurrences turned around).
        count: number of scenes.
        seed: of the split.
        iteration: of CSR; each has fresh `train` scenes.
        questions_per_image: yes and no in turn, POPE's categories in turn; fewer where a scene has too few objects.

    Returns:
        The number of images, objects and questions, and the split's arguments.
    """
    if split not in PUBLIC_SPLITS:
        raise SettingsError(f"unknown split {split!r} of the miniature: expected one of {', '.join(PUBLIC_SPLITS)}")
    out = Path(out)
    scenes = list(world.sample_split(split, count, seed, iteration))
    info = {"description": "CSR miniature world", "split": split, "seed": seed, "iteration": iteration}
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "images").mkdir(parents=True)
    for scene in scenes:
        draw(scene).save(partial / "images" / file_name(scene))
    prompts = [{"id": str(s.index), "image": f"images/{file_name(s)}", "prompt": world.DESCRIBE} for s in scenes]
    asked = _question_rows(scenes, questions_per_image)
    _write_lines(partial / "prompts.jsonl", prompts)
    _write_lines(partial / "questions.jsonl", asked)
    _write_json(partial / "instances.json", instances(scenes, info))
    _write_json(partial / "captions.json", reference_captions(scenes, info))
    if out.exists():
        shutil.rmtree(out)
    partial.rename(out)
    objects = sum(len(scene.objects) for scene in scenes)
    return {
        "split": split,
        "seed": seed,
        "iteration": iteration,
        "images": count,
        "objects": objects,
        "questions": len(asked),
    }
