"""The three presets of the method, the sizes of fine-tuning for the miniature, and the files for real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAPER: dict[str, Any] = {
    "generate.method": "sample",
    "generate.keep_best": 2,
    "generate.keep_worst": 2,
    "generate.keep_by": "reward",
    "generate.max_sentences": 8,
    "generate.max_characters": None,
    "generate.sentence_end": "text",
    "reward.combine": "value",
    "reward.likelihood": "probability",
    "reward.likelihood_scale": "raw",
    "reward.relevance_floor": True,
    "reward.repeats_earn_nothing": False,
    "reward.clean_text": False,
    "pair.path_score": "sum",
    "pair.same_length_share": 0.0,
    "pair.drop_closest": 0.0,
    "finetune.likelihood_weight": 0.0,
    "finetune.held_out_share": 0.0,
}

AUTHORS_CODE: dict[str, Any] = {
    **PAPER,
    "generate.method": "diverse_beam",
    "generate.keep_best": 1,
    "generate.keep_worst": 2,
    "generate.keep_by": "likelihood",
    "generate.max_sentences": None,
    "generate.max_characters": 1024,
    "generate.sentence_end": "token",
    "reward.combine": "rank",
    "reward.likelihood": "beam_score",
    "reward.relevance_floor": False,
    "reward.clean_text": True,
    "pair.path_score": "rank_mean",
}

STEADY: dict[str, Any] = {
    **PAPER,
    "reward.repeats_earn_nothing": True,
    "pair.path_score": "threshold_sum",
    "pair.threshold": 0.67,
    "pair.same_length_share": 0.5,
    "pair.drop_closest": 0.2,
    "finetune.likelihood_weight": 1.0,
    "finetune.held_out_share": 0.05,
}

PRESETS: dict[str, dict[str, Any]] = {"paper": PAPER, "authors-code": AUTHORS_CODE, "steady": STEADY}

# 1.6 M parameters and 240 pairs need larger steps than 7 B parameters and 12,000 pairs. Chosen on the validation split
# (docs/decisions/2026-11-23-miniature-settings.md).
MINIATURE_SIZES: dict[str, Any] = {
    "data.per_iteration": 500,
    "generate.shard_size": 250,
    "run.workers": 2,  # a model this small runs each on one thread
    "finetune.lora_rank": 16,
    "finetune.lora_alpha": 32,
    "finetune.learning_rate": 7e-4,
    "finetune.beta": 0.15,
    # All linear layers learn faster, and let the answers to yes/no questions drift.
    "finetune.target_modules": r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj)",
    "finetune.epochs": 3.0,
    "finetune.batch_size": 16,
    "finetune.accumulation": 1,
}

# What only a full-size LLaVA understands: the authors' prompt and their pixels.
AUTHORS_CODE_LLAVA: dict[str, Any] = {"model.prompt_template": "vicuna-v1", "model.image_backend": "pil"}

ABOUT: dict[str, str] = {
    "paper": "the procedure of the paper's text (arXiv 2405.14622)",
    "authors-code": "the procedure of the authors' published code",
    "steady": "the paper's, with what keeps answers from shrinking or repeating: the default",
}


def preset_files() -> dict[str, Path]:
    """The whole settings files for real models by name: `presets/` beside this package, in a clone and in a wheel."""
    folder = Path(__file__).parents[1] / "presets"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def about_presets() -> dict[str, str]:
    """Every name that `csr init --preset` takes, with one line on it; of a file its first line."""
    lines = {}
    for name, path in preset_files().items():
        with path.open(encoding="utf-8") as file:
            lines[name] = file.readline().removeprefix(f"# {name}: ").strip()
    return {**ABOUT, **lines}
