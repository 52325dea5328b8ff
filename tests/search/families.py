"""Tiny models of other families, random weights, with prompts for each."""

import torch
import transformers

from csr_core.policy import Policy, PromptInputs


def make(family: str, window: int | None = None) -> tuple[Policy, list[PromptInputs]]:
    """A model, and three prompts of unlike length. window: layers see so many tokens back."""
    if family == "qwen":
        return _qwen(window), [_qwen_prompt(4, 4, [7, 8, 9]), _qwen_prompt(8, 4, [7]), _qwen_prompt(4, 8, [7])]
    return _smolvlm(), [_smol_prompt([7, 8, 9], 0), _smol_prompt([7], 1), _smol_prompt([7, 8], 2)]


def _smolvlm() -> Policy:
    text = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 4}
    config = transformers.SmolVLMConfig(
        text_config={"model_type": "llama", **text}, vision_config=vision, image_token_id=90, scale_factor=2
    )
    return _random(transformers.SmolVLMForConditionalGeneration(config))


def _smol_prompt(tail: list[int], seed: int) -> PromptInputs:
    ids = torch.tensor([5, *[90] * 4, *tail])  # 4 x 4 patches, four of them one token
    pixels = torch.randn(1, 1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    return PromptInputs({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, {"pixel_values": pixels})


def _random(model: torch.nn.Module) -> Policy:
    torch.manual_seed(0)
    for name, parameter in model.eval().named_parameters():  # as they start, positions hardly matter
        torch.nn.init.normal_(parameter, mean=float("norm" in name and name.endswith("weight")), std=0.15)
    return Policy(model, None, torch.device("cpu"), 0, frozenset({2}), ())


def _qwen(window: int | None) -> Policy:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "rope_parameters": rope, "pad_token_id": 0}
    if window:
        text |= {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 0}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1]}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=90, video_token_id=91, vision_start_token_id=92
    )
    return _random(transformers.Qwen2_5_VLForConditionalGeneration(config))


def _qwen_prompt(height: int, width: int, tail: list[int]) -> PromptInputs:
    ids = torch.tensor([5, 92, *[90] * (height * width // 4), *tail])
    sequence = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == 90).int()}
    pixels = torch.randn(height * width, 3 * 2 * 16, generator=torch.Generator().manual_seed(height))
    return PromptInputs(sequence, {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, height, width]])})
