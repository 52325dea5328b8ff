"""Cached decoding gives the logits of a plain forward pass over everything."""

import pytest
import torch

from csr_core.policy import Policy, PromptInputs
from csr_core.search.decoding import NodeDecoder, Prefixes
from tests.search import worlds


@torch.inference_mode()
def plain(policy: Policy, prompt: PromptInputs, written: list[int]) -> torch.Tensor:
    """Logits after `written`, without cache, padding or batch."""
    more = torch.tensor([written], dtype=torch.long)
    inputs = {name: value[None] for name, value in prompt.sequence.items()}
    for name, value in inputs.items():
        new = more if name == "input_ids" else torch.full_like(more, name == "attention_mask")
        inputs[name] = torch.cat([value, new.to(value.dtype)], dim=1)
    return policy.model(**inputs, **prompt.features).logits[0, -1]


def check(policy: Policy, prompts: list[PromptInputs], written: list[list[int]]) -> None:
    prefixes = Prefixes(policy)
    decoder = NodeDecoder(prefixes, prompts, written)
    rows = list(zip(prompts, written, strict=True))

    def agree() -> None:
        want = torch.stack([plain(policy, *row) for row in rows])
        assert torch.allclose(decoder.logits, want, atol=1e-4)

    agree()
    # Fork the first, drop the second, reorder.
    for parents, tokens in ([2, 0, 0], [20, 21, 22]), ([1, 0, 1], [23, 24, 25]), ([0, 1, 2], [26, 27, 28]):
        decoder.advance(torch.tensor(parents), torch.tensor(tokens))
        rows = [(rows[parent][0], [*rows[parent][1], token]) for parent, token in zip(parents, tokens, strict=True)]
        agree()
    assert prefixes.encoded == len({id(prompt) for prompt in prompts})


def test_rows_of_unlike_length_forked_and_reordered():
    check(worlds.policy(), worlds.prompts(3), [[10, 81, 90], [], [11, 12, 13, 14, 15]])


def test_nodes_of_one_prompt_share_its_pass():
    first, second = worlds.prompts(2)
    check(worlds.policy(), [first, second, first], [[10], [], [11, 12]])


def test_nothing_written_yet():
    check(worlds.policy(), worlds.prompts(3), [[], [], []])


def test_a_family_with_positions_in_three_dimensions():
    """Qwen2.5-VL counts picture positions by rows and columns; tiny, with random weights."""
    check(
        _qwen(), [_qwen_prompt(4, 4, [7, 8, 9]), _qwen_prompt(8, 4, [7]), _qwen_prompt(4, 8, [7])], [[10], [], [11, 12]]
    )


def _qwen() -> Policy:
    transformers = pytest.importorskip("transformers")
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    text = {"vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "rope_parameters": rope, "pad_token_id": 0}
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1]}
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=90, video_token_id=91, vision_start_token_id=92
    )
    torch.manual_seed(0)
    model = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)  # the usual start is so small that positions hardly matter
    return Policy(model, None, torch.device("cpu"), 0, frozenset({2}), ())


def _qwen_prompt(height: int, width: int, tail: list[int]) -> PromptInputs:
    ids = torch.tensor([5, 92, *[90] * (height * width // 4), *tail])
    sequence = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": (ids == 90).int()}
    pixels = torch.randn(height * width, 3 * 2 * 16, generator=torch.Generator().manual_seed(height))
    return PromptInputs(sequence, {"pixel_values": pixels, "image_grid_thw": torch.tensor([[1, height, width]])})
