"""Tiny random checkpoints of each family, from its own configuration, processor and tokenizer classes, as on the hub.

Turn formats are the families' own, written here in the shortest form that renders the same text.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForImageTextToText, GenerationConfig

from tests.families.tokenizers import byte_level, sentence_piece

TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "max_position_embeddings": 2048}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE, PATCH = 32, 8  # pixels: 4 x 4 patches
SQUARE = {"height": SIDE, "width": SIDE}

# Of a user's or an assistant's turn, what stands in it: pictures first.
CONTENT = (
    "{% for part in message['content'] if part['type'] == 'image' %}PICTURE{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
)


def turns(picture: str, user: str, assistant: str, opening: str, begin: str = "") -> str:
    """A chat template: `user` and `assistant` are turns with CONTENT in the place of `%s`; `opening` comes last."""
    inside = CONTENT.replace("PICTURE", picture)
    return (
        f"{begin}{{% for message in messages %}}{{% if message['role'] == 'user' %}}{user % inside}"
        f"{{% else %}}{assistant % inside}{{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{opening}{{% endif %}}"
    )


def chatml(picture: str, system: str = "") -> str:
    """Qwen's turns. (Jinja drops the line break after a block, not one after text.)"""
    begin = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    user, assistant = "<|im_start|>user\n%s<|im_end|>\n", "<|im_start|>assistant\n%s<|im_end|>\n"
    return turns(picture, user, assistant, "<|im_start|>assistant\n", begin)


VICUNA = turns("<image>\n", "USER: %s ", "ASSISTANT: %s ", "ASSISTANT:")


def llama2(*specials: str) -> Any:
    tokenizer = sentence_piece("LlamaTokenizer", ["<unk>", "<s>", "</s>"], [*specials, "<pad>"], add_bos_token=True)
    tokenizer.pad_token = "<pad>"
    return tokenizer


def qwen(*specials: str, **named: Any) -> Any:
    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = byte_level("Qwen2Tokenizer", [*first, *specials], **named)
    tokenizer.eos_token = "<|im_end|>"
    return tokenizer


def gemma(*specials: str, **named: Any) -> Any:
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    return sentence_piece("GemmaTokenizer", first, list(specials), **named)


def llava() -> tuple[Any, Any, str]:
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE),
        tokenizer=llama2("<image>"),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    vision = {"model_type": "clip_vision_model", **VISION, "image_size": SIDE, "patch_size": PATCH}
    config = transformers.LlavaConfig(
        text_config=text("llama", processor.tokenizer),
        vision_config={**vision, "num_hidden_layers": 3},
        image_token_index=token(processor, "<image>"),
        image_seq_length=16,
    )
    return config, processor, VICUNA


def llava_next() -> tuple[Any, Any, str]:
    grids = [[32, 64], [64, 32], [64, 64]]
    processor = transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessor(
            size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=grids
        ),
        tokenizer=llama2("<image>"),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    vision = {"model_type": "clip_vision_model", **VISION, "image_size": SIDE, "patch_size": PATCH}
    config = transformers.LlavaNextConfig(
        text_config=text("mistral", processor.tokenizer, sliding_window=None),
        vision_config={**vision, "num_hidden_layers": 3},
        image_token_index=token(processor, "<image>"),
        image_grid_pinpoints=grids,
        image_seq_length=16,
    )
    return config, processor, turns("<image>\n", "[INST] %s [/INST]", " %s</s>", "", "<s>")


def llava_onevision() -> tuple[Any, Any, str]:
    grids = [[32, 32], [32, 64], [64, 32], [64, 64]]
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=grids),
        video_processor=transformers.LlavaOnevisionVideoProcessor(size=SQUARE),
        tokenizer=qwen("<image>", "<video>"),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
    )
    config = transformers.LlavaOnevisionConfig(
        text_config=text("qwen2", processor.tokenizer),
        vision_config=siglip(),
        image_token_index=token(processor, "<image>"),
        video_token_index=token(processor, "<video>"),
        image_grid_pinpoints=grids,
    )
    return config, processor, chatml("<image>\n")


def _qwen_vl(generation: str, vision: dict[str, Any], **more: Any) -> tuple[Any, Any, str]:
    names = ("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>")
    patch = vision["patch_size"]
    videos = "Qwen3VLVideoProcessor" if generation == "Qwen3VL" else "Qwen2VLVideoProcessor"
    size = {"shortest_edge": 8 * 8, "longest_edge": 32 * 32}
    processor = getattr(transformers, f"{generation}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(size=size, patch_size=patch, merge_size=2),
        video_processor=getattr(transformers, videos)(patch_size=patch, merge_size=2),
        tokenizer=qwen(*names),
    )
    ids = {name: token(processor, mark) for name, mark in QWEN_IDS.items()}
    config = getattr(transformers, f"{generation}Config")(
        text_config=text(None, processor.tokenizer, **more), vision_config=vision, **ids
    )
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    return config, processor, chatml(picture, "You are a helpful assistant." if generation != "Qwen3VL" else "")


QWEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def qwen2_vl() -> tuple[Any, Any, str]:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    return _qwen_vl("Qwen2VL", vision, rope_parameters=rope)


def qwen2_5_vl() -> tuple[Any, Any, str]:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1]}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    return _qwen_vl("Qwen2_5_VL", vision, rope_parameters=rope)


def qwen3_vl() -> tuple[Any, Any, str]:
    vision = {"depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"patch_size": 4, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    return _qwen_vl("Qwen3VL", vision, rope_parameters=rope, head_dim=8)


def idefics3() -> tuple[Any, Any, str]:
    return _idefics3("Idefics3", {})


def smolvlm() -> tuple[Any, Any, str]:
    video = transformers.SmolVLMVideoProcessor(
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, fps=1, num_frames=2,
        video_sampling={"fps": 1, "max_frames": 2, "video_size": {"longest_edge": SIDE}},
    )  # fmt: skip
    return _idefics3("SmolVLM", {"video_processor": video})


def _idefics3(kind: str, more: dict[str, Any]) -> tuple[Any, Any, str]:
    cells = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    names = ["<|im_start|>", "<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *cells]
    tokenizer = byte_level("GPT2Tokenizer", ["<|endoftext|>", "<pad>", *names])
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "<|im_start|>", "<end_of_utterance>", "<pad>"
    processor = getattr(transformers, f"{kind}Processor")(
        image_processor=getattr(transformers, f"{kind}ImageProcessor")(
            size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
        ),
        tokenizer=tokenizer,
        image_seq_len=4,
        **more,
    )
    config = getattr(transformers, f"{kind}Config")(
        text_config=text("llama", tokenizer),
        vision_config={**VISION, "image_size": SIDE, "patch_size": PATCH},
        image_token_id=token(processor, "<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    user, assistant = "User:%s<end_of_utterance>\n", "Assistant: %s<end_of_utterance>\n"
    return config, processor, turns("<image>", user, assistant, "Assistant:", "<|im_start|>")


def internvl() -> tuple[Any, Any, str]:
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    marks["video_token"] = "<video>"
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, max_patches=4),
        video_processor=transformers.InternVLVideoProcessor(size=SQUARE),
        tokenizer=qwen(*marks.values(), extra_special_tokens=marks),
        image_seq_length=4,
    )
    config = transformers.InternVLConfig(
        text_config=text("qwen2", processor.tokenizer),
        vision_config={**VISION, "image_size": SIDE, "patch_size": PATCH},
        image_token_id=token(processor, "<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return config, processor, chatml("<IMG_CONTEXT>\n")


def gemma3() -> tuple[Any, Any, str]:
    marks = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(size=SQUARE),
        tokenizer=gemma(*marks.values(), "<start_of_turn>", "<end_of_turn>", extra_special_tokens=marks),
        image_seq_length=4,
    )
    windows = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    config = transformers.Gemma3Config(
        text_config=text(None, processor.tokenizer, head_dim=8, query_pre_attn_scalar=8, **windows),
        vision_config=siglip(),
        mm_tokens_per_image=4,
        boi_token_index=token(processor, "<start_of_image>"),
        eoi_token_index=token(processor, "<end_of_image>"),
        image_token_index=token(processor, "<image_soft_token>"),
        eos_token_id=[token(processor, "<eos>"), token(processor, "<end_of_turn>")],
    )
    user, assistant = "<start_of_turn>user\n%s<end_of_turn>\n", "<start_of_turn>model\n%s<end_of_turn>\n"
    return config, processor, turns("<start_of_image>", user, assistant, "<start_of_turn>model\n", "<bos>")


def paligemma2() -> tuple[Any, Any, str]:
    images = transformers.SiglipImageProcessor(size=SQUARE)
    images.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(image_processor=images, tokenizer=gemma("<image>"))
    windows = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    config = transformers.PaliGemmaConfig(
        text_config=text("gemma2", processor.tokenizer, head_dim=8, query_pre_attn_scalar=8, **windows),
        vision_config={**siglip(), "projection_dim": 32},
        image_token_index=token(processor, "<image>"),
        projection_dim=32,
        hidden_size=32,
        vocab_size=len(processor.tokenizer),
    )
    return config, processor, ""


def instructblip() -> tuple[Any, Any, str]:
    words = ["describe", "the", "image", "is", "there", "a", "dog", "boat", "what", ".", "?"]
    bert = {name: number for number, name in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    processor = transformers.InstructBlipProcessor(
        image_processor=transformers.BlipImageProcessor(size=SQUARE),
        tokenizer=llama2(),
        qformer_tokenizer=transformers.BertTokenizer(vocab=bert),
        num_query_tokens=4,
    )
    qformer = {**VISION, "vocab_size": len(bert), "encoder_hidden_size": 32, "max_position_embeddings": 64}
    config = transformers.InstructBlipConfig(
        text_config=text("llama", processor.tokenizer),
        vision_config={**VISION, "image_size": SIDE, "patch_size": PATCH},
        qformer_config=qformer,
        num_query_tokens=4,
        image_token_index=token(processor, "<image>"),
    )
    return config, processor, ""


def siglip() -> dict[str, Any]:
    more = {"image_size": SIDE, "patch_size": PATCH, "vision_use_head": False}
    return {"model_type": "siglip_vision_model", **VISION, **more}


FAMILIES: dict[str, Callable[[], tuple[Any, Any, str]]] = {
    "LLaVA-1.5": llava,
    "LLaVA-NeXT": llava_next,
    "LLaVA-OneVision": llava_onevision,
    "Qwen2-VL": qwen2_vl,
    "Qwen2.5-VL": qwen2_5_vl,
    "Qwen3-VL": qwen3_vl,
    "Idefics3": idefics3,
    "SmolVLM": smolvlm,
    "InternVL3": internvl,
    "Gemma 3": gemma3,
    "PaliGemma 2": paligemma2,
    "InstructBLIP": instructblip,
}


def text(kind: str | None, tokenizer: Any, **more: Any) -> dict[str, Any]:
    """The language model's configuration; rows of the vocabulary in eights, as on the hub."""
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids["bos_token_id"] = tokenizer.bos_token_id
    rows = (len(tokenizer) + 7) // 8 * 8
    return {**({"model_type": kind} if kind else {}), **TEXT, "vocab_size": rows, **ids, **more}


def token(processor: Any, name: str) -> int:
    return int(processor.tokenizer.convert_tokens_to_ids(name))


def save(family: str, out: Path, talks: bool = True) -> Path:
    """Write a checkpoint of `family` into `out` and return that. `talks`: its sentences and turns end now and then."""
    torch.manual_seed(0)
    config, processor, template = FAMILIES[family]()
    processor.chat_template = template or None
    model = AutoModelForImageTextToText.from_config(config)
    tokenizer = processor.tokenizer
    ends = getattr(config, "eos_token_id", None) or tokenizer.eos_token_id
    model.generation_config = GenerationConfig(
        eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )
    fill(model, tokenizer, [ends[-1] if isinstance(ends, list) else ends] if talks else [])
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return out


def fill(model: torch.nn.Module, tokenizer: Any, ends: list[int]) -> None:
    """Random weights that make a model say something; with `ends` of a turn, these and full stops come now and then."""
    _spread(model)
    if ends:
        _talk(model, [*ends, tokenizer("dog.", add_special_tokens=False)["input_ids"][-1]])


def _spread(model: torch.nn.Module) -> None:
    """As they start, weights are so small that positions and pictures hardly matter."""
    words = model.get_input_embeddings().weight
    tied = model.get_output_embeddings().weight is words
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            # Tied words say themselves again unless they speak lower than the layers.
            torch.nn.init.normal_(parameter, std=0.05 if tied and parameter is words else 0.15)
        elif "norm" in name and name.endswith("weight"):
            shift = type(model).__name__.startswith(("Gemma", "PaliGemma")) and "vision" not in name
            torch.nn.init.normal_(parameter, mean=0.0 if shift else 1.0, std=0.15)  # Gemma adds 1 itself


@torch.no_grad()
def _talk(model: torch.nn.Module, ends: list[int]) -> None:
    """Have sentences and turns end now and then: all words get a direction in common, which these tokens answer to."""
    words, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    direction = torch.nn.functional.normalize(torch.randn(words.shape[1]), dim=0)
    words += direction * words.norm(dim=1).mean()
    head[ends] += direction * 1.2
