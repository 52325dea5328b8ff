"""What the family test runs: the real stages on a tiny checkpoint, and pairs that only the picture can tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image

from csr_core.config import Settings
from csr_core.dpo.pairs import PairCollator, Pairs
from csr_core.miniature.dataset import write_split
from csr_core.params import load_settings, preset_values, render_params
from csr_core.policy import Policy
from tests.dpo.world import preference

QUESTION = "Describe the image."
SMALL = (
    "iterations=1", "model.device=cpu", "reward.device=cpu", "data.per_iteration=null", "run.workers=1",
    "generate.max_sentences=2", "generate.max_sentence_tokens=8", "generate.shard_size=3", "generate.width=4",
    "finetune.lora_rank=8", "finetune.lora_alpha=16", "finetune.batch_size=2", "finetune.learning_rate=1e-3",
    "finetune.target_modules=null", "finetune.epochs=1",
    "evaluate.splits.test.count=3", "evaluate.splits.shifted.count=1", "evaluate.bootstrap=100",
    "evaluate.max_new_tokens=12",
)  # fmt: skip


def settings_for(folder: Path, checkpoint: Path, *changes: str) -> Settings:
    """The paper's preset on `checkpoint`, small."""
    path = folder / "params.yaml"
    path.write_text(render_params(preset_values("paper")))
    return load_settings(path, [*SMALL, f"model.path={checkpoint}", *changes])


def scenes(folder: Path, count: int) -> list[str]:
    """The settings for prompts on `count` drawn scenes, two of them cut to other shapes."""
    write_split(folder, "train", count=count, seed=5, questions_per_image=0)
    files = sorted((folder / "images").glob("*.png"))
    for file, box in zip(files, ((0, 0, 96, 48), (0, 0, 40, 96)), strict=False):
        Image.open(file).crop(box).save(file)
    return [f"data.prompts={folder / 'prompts.jsonl'}", f"data.images={folder}"]


ANSWERS = ("There is a dog.", "There is a boat.")


def told_by_picture(folder: Path, each: int = 4) -> list[dict[str, Any]]:
    """Pairs of which the text says nothing: on reddish pictures one answer is chosen, on bluish ones the other."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(2 * each):
        kind, shade = number % 2, 20 * (number // 2)
        colour = (255 - shade, shade, 10) if kind == 0 else (10, shade, 255 - shade)
        file = folder / f"{number}.png"
        Image.new("RGB", (64, 48), colour).save(file)
        rows.append(preference(f"p{number}", file, ANSWERS[kind], ANSWERS[1 - kind], QUESTION))
    return rows


@torch.no_grad()
def reward_accuracy(policy: Policy, pairs: Pairs, swapped: bool) -> float:
    """Share of pairs whose chosen answer has the higher DPO reward; `swapped`: each with a picture of the other kind.

    The reward without its beta: log p(answer) with the adapter - without it.
    """
    images = [row["images"] for row in pairs.rows]
    if swapped:
        images = images[1:] + images[:1]
    rows = [{**row, "images": image} for row, image in zip(pairs.rows, images, strict=True)]
    batch = PairCollator(policy, 10**6)(rows)
    told = likelihoods(policy, batch)
    with policy.model.disable_adapter():
        told = told - likelihoods(policy, batch)
    chosen, rejected = told.chunk(2)
    return float((chosen > rejected).float().mean())


def likelihoods(policy: Policy, batch: dict[str, Any]) -> torch.Tensor:
    """[2N]: log p of each answer."""
    inputs = {name: value for name, value in batch.items() if name != "completion_mask"}
    logits = policy.model(**inputs, use_cache=False).logits[:, :-1].float()
    own = logits.log_softmax(-1).gather(2, inputs["input_ids"][:, 1:, None])[..., 0]
    return (own * batch["completion_mask"][:, 1:]).sum(-1)
