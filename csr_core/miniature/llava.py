"""The tiny LLaVA: `LlavaForConditionalGeneration` on the tiny CLIP's frozen vision tower, in Hugging Face's layout."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from csr_core.miniature import world
from csr_core.miniature.clip import pixels, tower_weights
from csr_core.miniature.draw import draw_array
from csr_core.miniature.tokenizer import (
    BOS,
    EOS,
    IMAGE,
    IMAGE_TOKENS,
    PAD,
    PATCH,
    SPECIALS,
    UNK,
    chat_text,
    llava_processor,
)

if TYPE_CHECKING:
    import torch
    from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

STEPS = 1000
SCENES = 32  # a step: one caption and QUESTIONS questions of each
QUESTIONS = 2
RATE = 2e-3  # peak learning rate
ANSWER_WEIGHT = 5.0  # of the loss at the Yes/No token, against 1 at every other
# With the customary 0.02 the questions stay at chance; found by trial.
INITIAL_DEVIATION = 0.08


def make_model(vocabulary: int, tower: dict[str, torch.Tensor]) -> LlavaForConditionalGeneration:
    """A fresh model around the given vision tower (see `clip.tower_weights`), which is frozen."""
    import torch
    from transformers import CLIPVisionConfig, GenerationConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=3, num_attention_heads=4, image_size=world.IMAGE_SIZE,
        patch_size=PATCH, projection_dim=64, hidden_act="gelu",
    )  # fmt: skip
    ids = {"pad_token_id": SPECIALS[PAD], "bos_token_id": SPECIALS[BOS], "eos_token_id": SPECIALS[EOS]}
    text = LlamaConfig(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=320, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=1024, initializer_range=INITIAL_DEVIATION, tie_word_embeddings=False, **ids,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=SPECIALS[IMAGE], projector_hidden_act="gelu",
        vision_feature_select_strategy="default", vision_feature_layer=-2, image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    hidden = [SPECIALS[name] for name in (PAD, BOS, UNK, IMAGE)]
    model.generation_config = GenerationConfig(suppress_tokens=hidden, max_new_tokens=96, do_sample=False, **ids)
    for name, weight in model.named_parameters():
        if "vision_tower" not in name and weight.dim() == 2:
            torch.nn.init.normal_(weight, std=INITIAL_DEVIATION)
    frozen = model.model.vision_tower
    prefix = "vision_model." if hasattr(frozen, "vision_model") else ""
    frozen.load_state_dict({prefix + name: weight for name, weight in tower.items()})
    frozen.requires_grad_(False)
    return model


def _examples(scenes: list[world.Scene]) -> list[tuple[int, str, str]]:
    """(row of the scene, prompt, answer): a caption of every scene, then QUESTIONS questions, categories in turn."""
    rows = [(row, chat_text(world.DESCRIBE), world.pretraining_caption(scene)) for row, scene in enumerate(scenes)]
    for row, scene in enumerate(scenes):
        first = scene.index % len(world.CATEGORIES) * QUESTIONS
        asked = world.pretraining_answers(scene)[first : first + QUESTIONS]
        rows += [(row, chat_text(question), answer) for question, answer in asked]
    return rows


def encode(tokenizer: PreTrainedTokenizerFast, rows: list[tuple[int, str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids, padded right, and the weight of each token's loss: both [rows, length]; 0 on prompts and padding."""
    import torch

    prompts = tokenizer([prompt for _, prompt, _ in rows])["input_ids"]
    answers = tokenizer([answer + EOS for _, _, answer in rows])["input_ids"]
    width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True))
    ids = torch.full((len(rows), width), SPECIALS[PAD])
    weights = torch.zeros(len(rows), width)
    for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        weights[row, len(prompt) : end] = 1.0
        if rows[row][2] in ("Yes.", "No."):
            weights[row, len(prompt)] = ANSWER_WEIGHT
    return ids, weights


def answer_loss(
    model: LlavaForConditionalGeneration, patches: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Summed weighted negative log-likelihood of the answers.

    Args:
        patches: [rows, 9, 128], the frozen tower's features (computed once for all rows of a picture).
        ids, weights: [rows, length], see `encode`.
    """
    from torch.nn.functional import cross_entropy

    inner = model.model
    words = inner.get_input_embeddings()(ids)
    pictures = inner.multi_modal_projector(patches).to(words.dtype)
    words = words.masked_scatter((ids == SPECIALS[IMAGE]).unsqueeze(-1), pictures)
    logits = model.lm_head(inner.language_model(inputs_embeds=words, use_cache=False).last_hidden_state)
    losses = cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    return (losses * weights[:, 1:].flatten()).sum()


def _step_loss(
    model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast, scenes: list[world.Scene]
) -> torch.Tensor:
    """Mean loss over the answers' tokens of one step; captions and questions apart, for their lengths differ."""
    import torch

    with torch.no_grad():
        seen = model.model.vision_tower(pixels(draw_array(scenes)), output_hidden_states=True).hidden_states
        patches = seen[model.config.vision_feature_layer][:, 1:]
    rows = _examples(scenes)
    total, weight = torch.zeros(()), 0.0
    for part in (rows[: len(scenes)], rows[len(scenes) :]):
        ids, weights = encode(tokenizer, part)
        total = total + answer_loss(model, patches[[row for row, _, _ in part]], ids, weights)
        weight += weights.sum().item()
    return total / weight


def train(
    seed: int, steps: int, clip_model: torch.nn.Module, progress: Callable[[str], object]
) -> LlavaForConditionalGeneration:
    """A trained model on the tower of `clip_model`; scenes are fresh at every step."""
    import torch

    torch.manual_seed(seed + 1_000_003)
    tokenizer = llava_processor().tokenizer
    model = make_model(len(tokenizer), tower_weights(clip_model))
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / (0.05 * steps), (steps - step) / (0.95 * steps))
    )
    begun = time.monotonic()
    model.train()
    for step in range(steps):
        loss = _step_loss(model, tokenizer, list(world.sample_split("pretraining", SCENES, seed, start=step * SCENES)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            seconds = time.monotonic() - begun
            rate, left = (step + 1) * SCENES / seconds, seconds / (step + 1) * (steps - step - 1)
            progress(f"llava: step {step + 1}/{steps}, loss {loss.item():.3f}, {rate:.0f} scenes/s, {left:.0f} s left")
    return model.eval()


def save(model: LlavaForConditionalGeneration, out: Path) -> None:
    """Writes model, generation settings, tokenizer, processor and chat template to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    model.requires_grad_(True)
    model.save_pretrained(out)
    llava_processor().save_pretrained(out)
