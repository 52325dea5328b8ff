"""A rounded base is refused where it cannot be had; where bitsandbytes is, it loads and trains."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from csr_core.config import FinetuneSettings, ModelSettings, Settings
from csr_core.dpo.pairs import usable_pairs
from csr_core.dpo.train import train
from csr_core.errors import SettingsError
from csr_core.params import settings_from
from csr_core.policy import load_policy
from csr_core.policy.quantization import loading_options, refuse_unusable
from tests.dpo.world import scene_preferences


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_cpu_is_told_at_once(kind: str) -> None:
    settings = ModelSettings.model_validate({"quantization": kind, "device": "cpu"})
    with pytest.raises(SettingsError, match=rf"model\.quantization is '{kind}', which needs a CUDA GPU"):
        load_policy(settings)


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed: nothing is refused")
def test_a_missing_package_is_named() -> None:
    with pytest.raises(SettingsError, match=r"csr-pipeline\[quantization\]"):
        refuse_unusable(ModelSettings(quantization="nf4"), torch.device("cuda"))


def test_merging_into_a_rounded_base_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"cannot be merged .*finetune\.carry to 'adapter'"):
        settings_from({"model": {"quantization": "nf4"}, "finetune": {"carry": "merged"}})
    settings_from({"model": {"quantization": "nf4"}, "finetune": {"carry": "adapter"}})


def test_nothing_changes_without_it() -> None:
    assert loading_options(ModelSettings(), "anywhere", torch.bfloat16, torch.device("cuda")) == {}
    assert Settings().model.quantization is None
    assert FinetuneSettings().carry == "adapter"


def test_the_language_model_alone_is_rounded() -> None:
    """What transformers is told, on the shipped model; the configuration needs no bitsandbytes."""
    from csr_core.miniature.weights import shipped

    settings = ModelSettings(quantization="nf4")
    options = loading_options(settings, str(shipped("llava")), torch.bfloat16, torch.device("cuda"))
    told = options["quantization_config"]
    assert (told.load_in_4bit, told.bnb_4bit_quant_type, told.bnb_4bit_compute_dtype) == (True, "nf4", torch.bfloat16)
    assert set(told.llm_int8_skip_modules) == {"model.vision_tower", "model.multi_modal_projector", "lm_head"}
    assert options["device_map"] == {"": torch.device("cuda")}
    eight = ModelSettings(quantization="int8")
    assert loading_options(eight, str(shipped("llava")), torch.float16, torch.device("cuda"))[
        "quantization_config"
    ].load_in_8bit


@pytest.mark.skipif(
    not torch.cuda.is_available() or find_spec("bitsandbytes") is None, reason="needs a CUDA GPU and bitsandbytes"
)
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_rounded_base_is_trained_in_float32(kind: str, tmp_path: Path) -> None:
    policy = load_policy(ModelSettings.model_validate({"quantization": kind}))
    table = scene_preferences(tmp_path / "images", 8)
    settings = FinetuneSettings(lora_rank=8, lora_alpha=16, learning_rate=1e-3, batch_size=4, epochs=4.0)
    trained = train(policy, usable_pairs(policy, table, 10**8), settings, 0, 10**8, tmp_path / "work")
    assert {value.dtype for value in trained.model.parameters() if value.requires_grad} == {torch.float32}
    assert trained.log[-1]["loss"] < trained.log[0]["loss"] - 0.01
