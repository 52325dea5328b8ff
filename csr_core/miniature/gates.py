"""What the miniature's models must be able to do, measured on validation scenes through the public loading code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_core.miniature import world
from csr_core.miniature.draw import draw

if TYPE_CHECKING:
    import torch

# name -> (lowest, highest) that passes; fractions of 1.
GATES: dict[str, tuple[float, float]] = {
    "chair_i": (0.15, 0.30),
    "recall": (0.90, 1.0),
    "pope_accuracy": (0.85, 1.0),
    "pope_yes_ratio": (0.50, 0.70),
    "clip_companion_order": (0.95, 1.0),
}
_NAMED = re.compile(r"There is an? ([a-z ]+)\.")


def missed(measured: dict[str, float]) -> list[str]:
    """A line for every gate that `measured` does not pass."""
    return [
        f"{name} is {measured[name]:.3f}, must be {low} to {high}"
        for name, (low, high) in GATES.items()
        if not low <= measured[name] <= high
    ]


def named_objects(caption: str) -> list[str]:
    """Objects a caption of the world's one phrasing names, repeats included."""
    return [name for name in _NAMED.findall(caption) if name in world.OBJECTS]


def answer(
    model: Any, processor: Any, pictures: list[Any], prompts: list[str], tokens: int, batch: int = 100, **options: Any
) -> list[str]:
    """Answers of a VLM to (picture, prompt) pairs, greedy unless `options` of `generate` say otherwise."""
    import torch

    answers: list[str] = []
    for begin in range(0, len(prompts), batch):
        chats = [
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
            for prompt in prompts[begin : begin + batch]
        ]
        texts = [processor.apply_chat_template(chat, add_generation_prompt=True) for chat in chats]
        inputs = processor(images=pictures[begin : begin + batch], text=texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            out = model.generate(**inputs, max_new_tokens=tokens, **options)
        answers += processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


def measure_captions(captions: list[str], scenes: list[world.Scene]) -> dict[str, float]:
    """CHAIR_i, CHAIR_s, recall, words a caption, and how often companions are named: the absent and the present."""
    named = [set(named_objects(caption)) for caption in captions]
    truths = [scene.names for scene in scenes]
    mentions = sum(map(len, named))
    false = sum(len(n - t) for n, t in zip(named, truths, strict=True))
    lured = [(n, c) for n, s in zip(named, scenes, strict=True) for c in world.absent_companions(s)]
    there = [(n, c) for n, t in zip(named, truths, strict=True) for g, c in world.COMPANIONS.items() if {g, c} <= t]
    return {
        "chair_i": false / max(mentions, 1),
        "chair_s": sum(bool(n - t) for n, t in zip(named, truths, strict=True)) / len(scenes),
        "recall": sum(len(n & t) for n, t in zip(named, truths, strict=True)) / sum(map(len, truths)),
        "words": sum(len(caption.split()) for caption in captions) / len(captions),
        "companion_named_absent": sum(c in n for n, c in lured) / max(len(lured), 1),
        "companion_named_present": sum(c in n for n, c in there) / max(len(there), 1),
    }


def measure_llava(directory: Path, scenes: list[world.Scene]) -> dict[str, float]:
    """Greedy captions and POPE questions (six a scene) of the model in `directory`."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(directory).eval()
    processor = AutoProcessor.from_pretrained(directory)
    pictures = [draw(scene) for scene in scenes]
    captions = answer(model, processor, pictures, [world.DESCRIBE] * len(scenes), 64)
    measured = measure_captions(captions, scenes)
    asked = [(picture, q) for picture, s in zip(pictures, scenes, strict=True) for q in world.questions(s, 6)]
    said = answer(model, processor, [p for p, _ in asked], [q.text for _, q in asked], 2)
    yes = [text.startswith("Yes") for text in said]
    right = [y == q.present for y, (_, q) in zip(yes, asked, strict=True)]
    measured["pope_accuracy"] = sum(right) / len(right)
    measured["pope_yes_ratio"] = sum(yes) / len(yes)
    for category in world.CATEGORIES:
        mine = [r for r, (_, q) in zip(right, asked, strict=True) if q.category == category]
        measured[f"pope_accuracy_{category}"] = sum(mine) / len(mine)
    return measured


def similarities(directory: Path, scenes: list[world.Scene]) -> torch.Tensor:
    """Cosine of every scene's picture with every sentence of the world: [scenes, 27]."""
    import open_clip
    import torch

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{directory}")
    texts = open_clip.get_tokenizer(f"local-dir:{directory}")(world.sentences())
    with torch.inference_mode():
        pictures = torch.stack([preprocess(draw(scene)) for scene in scenes])
        seen: torch.Tensor = model.eval().encode_image(pictures, normalize=True)
        read: torch.Tensor = model.encode_text(texts, normalize=True)
    return seen @ read.T


def measure_clip(directory: Path, scenes: list[world.Scene]) -> dict[str, float]:
    """How often a true sentence is closer to its picture than an absent companion's, and than any absent object's."""
    cosine = similarities(directory, scenes)
    column = {name: len(world.SCENES) + number for number, name in enumerate(world.OBJECTS)}
    lured, anything, true_sum, lured_sum = [], [], [], []
    for row, scene in zip(cosine.tolist(), scenes, strict=True):
        true = [row[column[name]] for name in scene.names]
        absent = [row[column[name]] for name in world.OBJECTS if name not in scene.names]
        companions = [row[column[name]] for name in world.absent_companions(scene)]
        lured += [t > c for t in true for c in companions]
        anything += [t > a for t in true for a in absent]
        true_sum += true
        lured_sum += companions
    return {
        "clip_companion_order": sum(lured) / len(lured),
        "clip_order": sum(anything) / len(anything),
        "clip_cosine_true": sum(true_sum) / len(true_sum),
        "clip_cosine_companion": sum(lured_sum) / len(lured_sum),
    }
