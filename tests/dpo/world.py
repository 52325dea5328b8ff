"""Preference pairs for tests: drawn scenes of the miniature world, or the golden tiny checkpoint's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from csr_core.config import FinetuneSettings, ModelSettings, Settings
from csr_core.miniature import world
from csr_core.miniature.draw import draw
from csr_core.records import PREFERENCES, write_table

GOLDEN = Path(__file__).resolve().parents[2] / "../shared/data/golden"
QUESTION = "Describe the image."


def message(role: str, text: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


def preference(name: str, image: Path | str, chosen: str, rejected: str, question: str = QUESTION) -> dict[str, Any]:
    return {
        "images": [str(image)],
        "prompt": message("user", question),
        "chosen": message("assistant", chosen),
        "rejected": message("assistant", rejected),
        "prompt_id": name,
        "chosen_reward": 1.0,
        "rejected_reward": 0.0,
        "margin": 1.0,
        "chosen_nodes": [1],
        "rejected_nodes": [2],
    }


def scene_preferences(folder: Path, count: int) -> list[dict[str, Any]]:
    """`count` pairs: a scene's true caption is chosen, the same with an object that is not there is rejected."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for index, scene in enumerate(world.sample_split("train", count, seed=3)):
        path = folder / f"{index}.png"
        draw(scene).save(path)
        truth = world.reference_caption(scene)
        absent = next(name for name in ("boat", "kite", "pizza", "clock") if name not in truth)
        rows.append(preference(f"p{index}", path, truth, f"{truth} There is a {absent}."))
    return rows


def scene_folder(root: Path, count: int) -> Path:
    """A preferences folder as the pair stage leaves it."""
    write_table(root / "preferences" / "preferences.parquet", scene_preferences(root / "images", count), PREFERENCES)
    return root / "preferences"


def settings(seed: int = 0, **finetune: Any) -> Settings:
    """The shipped miniature on the CPU, with a small adapter unless told otherwise."""
    values = {"lora_rank": 4, "lora_alpha": 8, "learning_rate": 1e-3, "batch_size": 4, "warmup_share": 0.0} | finetune
    return Settings(seed=seed, model=ModelSettings(device="cpu"), finetune=FinetuneSettings(**values))


def golden_model(template: str = "vicuna-v1") -> ModelSettings:
    """The golden tiny LLaVA, with a real (Llama) tokenizer."""
    if not (GOLDEN / "tiny-llava").is_dir():
        pytest.skip("needs the models of ../shared/data/golden, which are not part of this repository")
    return ModelSettings(path=str(GOLDEN / "tiny-llava"), prompt_template=template, device="cpu", image_backend="pil")
