"""Small open_clip models with random weights, each kind in a folder as the hub serves it."""

import json
from pathlib import Path

import open_clip
import torch
from open_clip.factory import get_model_config
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

NORMALISE = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
VISION = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}


def clip(folder: Path, context: int = 77, **more) -> Path:
    """As OpenAI's, DFN's and LAION's: open_clip's own tokenizer, a causal text tower, the highest token is the end."""
    text = {"context_length": context, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return _save(folder, {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text, **more})


def siglip2(folder: Path, size: int = 60) -> Path:
    """As SigLIP 2: 64 tokens of its own tokenizer, read both ways with their padding, the last one's state is taken."""
    _words(folder, size)
    text = dict(get_model_config("ViT-B-16-SigLIP2")["text_cfg"])
    text |= {"vocab_size": size, "width": 32, "heads": 2, "layers": 2, "hf_tokenizer_name": "own"}
    vision = {**VISION, "pool_type": "tok"}
    model = {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, "custom_text": True}
    return _save(folder, {**model, "init_logit_bias": -10})


def _words(folder: Path, size: int) -> None:
    """A tokenizer of single letters."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = ["<pad>", "<unk>", "<eos>", *"abcdefghijklmnopqrstuvwxyz.,!?'-0123456789"]
    known = {letter: number for number, letter in enumerate(letters[:size])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<eos>", model_max_length=64
    ).save_pretrained(folder)


def _save(folder: Path, model: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_cfg": model, "preprocess_cfg": NORMALISE}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(len(str(model)))
    made = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder
