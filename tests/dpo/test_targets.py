from __future__ import annotations

import re

import pytest
import torch

from csr_core.config import ModelSettings
from csr_core.dpo.targets import checked_targets, language_linears
from csr_core.errors import SettingsError
from csr_core.policy import load_policy


@pytest.fixture(scope="module")
def llava() -> torch.nn.Module:
    return load_policy(ModelSettings(device="cpu")).model


@pytest.fixture(scope="module")
def qwen() -> torch.nn.Module:
    """A Qwen2-VL of another family's layout, with random weights."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "vocab_size": 32,
    }
    text |= {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 1}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision))


def matched(model: torch.nn.Module, expression: str) -> set[str]:
    return {name for name, _ in model.named_modules() if re.fullmatch(expression, name)}


@pytest.mark.parametrize("family", ["llava", "qwen"])
def test_exactly_the_linear_layers_of_the_language_model(family: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(family)
    linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    found = matched(model, language_linears(model))
    assert found == {name for name in linears if "language_model" in name}
    layers = 2 if family == "qwen" else model.config.text_config.num_hidden_layers
    assert len(found) == 7 * layers  # q, k, v, o, gate, up, down
    others = linears - found
    assert any("vis" in name for name in others)
    assert "lm_head" in others


def test_an_expression_of_the_settings_is_taken_as_it_is(llava: torch.nn.Module) -> None:
    assert checked_targets(llava, r".*language_model.*\.q_proj") == r".*language_model.*\.q_proj"


@pytest.mark.parametrize(
    ("expression", "message"),
    [("(", "not a regular expression"), ("q_proj", "matches none"), (".*", "lm_head"), (".*head", "lm_head")],
)
def test_expressions_that_cannot_work(llava: torch.nn.Module, expression: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        checked_targets(llava, expression)
