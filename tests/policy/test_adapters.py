from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from csr_core.config import ModelSettings
from csr_core.dpo.targets import language_linears
from csr_core.errors import CsrError
from csr_core.miniature import world
from csr_core.miniature.draw import draw
from csr_core.policy import Policy, collate, load_policy
from csr_core.policy.adapters import adapter_parameters, is_adapted, merge_float32, save_adapter, save_merged

MODEL = ModelSettings(device="cpu")


def adapted(size: float = 0.02, dtype: str = "float32") -> tuple[Policy, dict[str, Any]]:
    """The shipped model with an adapter whose product is not zero, and inputs to compare on."""
    policy = load_policy(ModelSettings(device="cpu", dtype=dtype))
    scene = next(iter(world.sample_split("train", 1, seed=0)))
    inputs = collate([policy.encode(draw(scene), "Describe the image.")], [[]], policy.pad_id, "cpu")
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=language_linears(policy.model))
    policy.model = get_peft_model(policy.model, config)
    for name, value in policy.model.named_parameters():
        if "lora_B" in name:
            value.data.normal_(std=size)
    return policy, inputs


def logits(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**inputs).logits


def test_only_the_trained_adapter_is_saved(tmp_path: Path) -> None:
    policy, inputs = adapted()
    policy.model.add_adapter("ref", policy.model.peft_config["default"])
    save_adapter(policy.model, tmp_path, base="miniature")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(value.numel() for value in saved.values()) == adapter_parameters(policy.model)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "miniature"

    loaded = load_policy(MODEL, tmp_path)
    assert is_adapted(loaded.model)
    assert torch.equal(logits(loaded.model, inputs), logits(policy.model, inputs))
    assert not torch.allclose(logits(load_policy(MODEL).model, inputs), logits(policy.model, inputs), atol=1e-2)


def test_a_merged_model_is_the_adapted_one(tmp_path: Path) -> None:
    policy, inputs = adapted()
    policy.model.add_adapter("ref", policy.model.peft_config["default"])
    before = logits(policy.model, inputs)
    merged = merge_float32(policy.model, inputs)
    assert not is_adapted(merged)
    assert torch.allclose(logits(merged, inputs), before, atol=1e-4)

    save_merged(merged, policy, tmp_path)
    loaded = load_policy(MODEL, tmp_path)
    assert not is_adapted(loaded.model)
    assert torch.allclose(logits(loaded.model, inputs), before, atol=1e-4)
    whole = load_policy(ModelSettings(path=str(tmp_path), device="cpu"))  # complete: usable as a model of its own
    assert whole.render("Hello") == policy.render("Hello")


def test_a_merge_that_changes_the_logits_is_refused() -> None:
    policy, inputs = adapted()
    with pytest.raises(CsrError, match="merging the adapter changed the logits"):
        merge_float32(policy.model, inputs, tolerance=0.0)  # float32 rounding alone is more than nothing


def test_small_steps_survive_the_merge_of_a_bfloat16_model() -> None:
    """A product far below bfloat16's resolution (2^-8 of a weight) is lost by a merge in bfloat16, and kept here."""
    policy, _ = adapted(size=1e-5, dtype="bfloat16")
    name = "model.language_model.layers.0.self_attn.q_proj"
    layer = policy.model.get_base_model().get_submodule(name)
    weight = layer.base_layer.weight.detach().clone()
    product = layer.get_delta_weight("default").float()
    assert float(((weight.float() + product).bfloat16() != weight).float().mean()) < 0.02  # but for weights near 0
    merged = merge_float32(policy.model)
    change = merged.get_submodule(name).weight - weight.float()
    assert torch.allclose(change, product, atol=1e-7)
    assert float((change != 0).float().mean()) > 0.95
