from __future__ import annotations

import torch

from csr_core.policy import PromptInputs, collate
from csr_core.policy.prompt import split_inputs


def sample(ids: list[int], shade: float) -> PromptInputs:
    tokens = torch.tensor([ids])
    pixels = torch.full((1, 3, 2, 2), shade)
    return split_inputs({"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "pixel_values": pixels})


def test_split_tells_tokens_from_pictures() -> None:
    inputs = sample([4, 5, 6], 1.0)
    assert set(inputs.sequence) == {"input_ids", "attention_mask"}
    assert set(inputs.features) == {"pixel_values"}
    assert inputs.length == 3


def test_collate_by_hand() -> None:
    """Padding id 9: [4 5 6] + [7] is the longest row (4); [8] + [] gets three pads in front."""
    batch = collate([sample([4, 5, 6], 0.5), sample([8], 1.0)], [[7], []], pad_id=9, device="cpu")
    assert batch["input_ids"].tolist() == [[4, 5, 6, 7], [9, 9, 9, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 0, 0, 1]]
    assert batch["pixel_values"].shape == (2, 3, 2, 2)
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0.5, 1.0]
