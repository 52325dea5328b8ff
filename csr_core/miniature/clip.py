"""The tiny CLIP: an open_clip model trained by a contrastive loss alone, kept in open_clip's `local-dir:` layout."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from csr_core.miniature import world
from csr_core.miniature.draw import draw_array
from csr_core.miniature.tokenizer import CLIP_CONTEXT, EOS, PAD, PATCH, SPECIALS, clip_tokenizer

if TYPE_CHECKING:
    import torch

STEPS = 900
BATCH = 128  # pictures a step
RATE = 1e-3  # peak learning rate, one cycle
MEAN = STD = (0.5, 0.5, 0.5)


def model_config(vocabulary: int) -> dict[str, Any]:
    """open_clip's `model_cfg`; the vision tower has transformers' CLIP for a twin, so that LLaVA can take it over."""
    return {
        "embed_dim": 64,
        "init_logit_scale": float(np.log(10.0)),
        "init_logit_bias": -3.0,
        "vision_cfg": {"image_size": 96, "layers": 3, "width": 128, "head_width": 32, "patch_size": PATCH},
        "text_cfg": {
            "context_length": CLIP_CONTEXT,
            "vocab_size": vocabulary,
            # Any name: with `local-dir:` the files beside are read. Without one open_clip silently takes OpenAI's.
            "hf_tokenizer_name": "miniature",
            "tokenizer_kwargs": {"clean": "whitespace"},
            "width": 64,
            "heads": 2,
            "layers": 2,
            "pool_type": "eos",
            "eos_id": SPECIALS[EOS],
            "pad_id": SPECIALS[PAD],
        },
    }


def pixels(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [n, 96, 96, 3] to float32 [n, 3, 96, 96] in -1..1, as both models' preprocessing does at this size."""
    import torch

    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def _batch(scenes: list[world.Scene], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures [batch, 3, 96, 96], half of them mirrored, and which sentences are true of each: [batch, 27]."""
    import torch

    pictures = pixels(draw_array(scenes))
    mirrored = torch.from_numpy(rng.random(len(scenes)) < 0.5)
    pictures[mirrored] = pictures[mirrored].flip(-1)
    column = {sentence: number for number, sentence in enumerate(world.sentences())}
    true = torch.zeros(len(scenes), len(column))
    for row, scene in enumerate(scenes):
        for text in [world.place_sentence(scene.place), *map(world.object_sentence, scene.names)]:
            true[row, column[text]] = 1.0
    return pictures, true


def contrastive_loss(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Sigmoid loss over every (picture, sentence) pair of a batch, a picture may have several true sentences.

    SigLIP, arXiv 2303.15343, equation 1, with the diagonal replaced by `true`.

    Args:
        logits: [pictures, sentences], scaled cosine plus bias.
        true: [pictures, sentences], 1 where the sentence is in the picture's caption.
    """
    from torch.nn.functional import logsigmoid

    return -logsigmoid(logits * (2 * true - 1)).sum(1).mean()


def train(seed: int, steps: int, progress: Callable[[str], object]) -> tuple[torch.nn.Module, dict[str, Any]]:
    """A trained open_clip model and its configuration (`model_cfg`). Scenes are fresh at every step."""
    import open_clip
    import torch

    torch.manual_seed(seed)
    tokenizer = clip_tokenizer()
    config = model_config(len(tokenizer))
    model = open_clip.model.CLIP(**config)
    rng = np.random.default_rng([seed, 77])
    texts = tokenizer(world.sentences(), padding="max_length", max_length=CLIP_CONTEXT, return_tensors="pt")[
        "input_ids"
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.15)
    begun = time.monotonic()
    for step in range(steps):
        pictures, true = _batch(list(world.sample_split("contrastive", BATCH, seed, start=step * BATCH)), rng)
        loss = contrastive_loss(model.get_logits(pictures, texts)[0], true)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            progress(_line("clip", step + 1, steps, BATCH, loss.item(), time.monotonic() - begun))
    return model.eval(), config


def _line(name: str, done: int, steps: int, batch: int, loss: float, seconds: float) -> str:
    """A line of progress: what is done, how fast, how long it will still take."""
    left = seconds / done * (steps - done)
    return f"{name}: step {done}/{steps}, loss {loss:.3f}, {done * batch / seconds:.0f} pictures/s, {left:.0f} s left"


def save(model: torch.nn.Module, config: dict[str, Any], out: Path) -> None:
    """Writes `out/open_clip_config.json`, `open_clip_model.safetensors` and the tokenizer's files."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    text = json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=2)
    (out / "open_clip_config.json").write_text(text + "\n", encoding="utf-8")
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, out / "open_clip_model.safetensors")
    (out / "open_clip_model.safetensors").chmod(0o644)  # safetensors makes it readable by its owner alone
    clip_tokenizer().save_pretrained(out)


def tower_weights(model: Any) -> dict[str, torch.Tensor]:
    """The vision tower's weights under the names of transformers' `CLIPVisionModel` (`vision_model.` left out)."""
    state = model.visual.state_dict()
    out = {
        "embeddings.class_embedding": state["class_embedding"],
        "embeddings.patch_embedding.weight": state["conv1.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
    }
    for kind in ("weight", "bias"):
        out[f"pre_layrnorm.{kind}"] = state[f"ln_pre.{kind}"]
        out[f"post_layernorm.{kind}"] = state[f"ln_post.{kind}"]
        for layer in range(len(model.visual.transformer.resblocks)):
            old, new = f"transformer.resblocks.{layer}", f"encoder.layers.{layer}"
            for name, part in zip("qkv", state[f"{old}.attn.in_proj_{kind}"].chunk(3), strict=True):
                out[f"{new}.self_attn.{name}_proj.{kind}"] = part
            out[f"{new}.self_attn.out_proj.{kind}"] = state[f"{old}.attn.out_proj.{kind}"]
            for theirs, ours in (
                ("ln_1", "layer_norm1"),
                ("ln_2", "layer_norm2"),
                ("mlp.c_fc", "mlp.fc1"),
                ("mlp.c_proj", "mlp.fc2"),
            ):
                out[f"{new}.{ours}.{kind}"] = state[f"{old}.{theirs}.{kind}"]
    return out
