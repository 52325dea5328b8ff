"""Sizes without weights are those of the real thing."""

from __future__ import annotations

import pytest
from peft import LoraConfig, get_peft_model

from csr_core.config import ModelSettings, RewardSettings
from csr_core.memory import quantities as part
from csr_core.memory.shapes import known, known_models, skeleton, tower_shape, unrounded, vlm_shape
from csr_core.policy.adapters import adapter_parameters
from csr_core.reward.relevance import load_relevance
from csr_core.search.batches import token_bytes
from csr_core.search.prefixes import Prefixes
from csr_core.stages.models import policy_files
from tests.search.worlds import policy, prompts


def test_the_miniature_is_estimated_to_the_byte() -> None:
    real = policy()
    found = known(ModelSettings(), policy_files(ModelSettings())[0])
    assert found is not None
    shape = vlm_shape(skeleton(found.config), found.photo, None)
    assert part.weights(shape, 4) == sum(one.numel() * one.element_size() for one in real.model.parameters())
    state = Prefixes(real).get(prompts(1))[0]
    assert part.keys_values(shape, 1, 4) == token_bytes(state)
    image = real.model.config.image_token_id
    assert found.photo[0] == int((prompts(1)[0].sequence["input_ids"] == image).sum())
    from csr_core.dpo.targets import checked_targets

    adapted = get_peft_model(real.model, LoraConfig(r=5, target_modules=checked_targets(real.model, None)))
    assert part.adapter_values(shape, 5) == adapter_parameters(adapted)


# Parameters as the models' cards and checkpoints have them.
@pytest.mark.parametrize(
    ("name", "parameters", "bfloat16_gb"),
    [
        ("llava-hf/llava-1.5-7b-hf", 7_063_427_072, 14.13),
        ("llava-hf/llava-1.5-13b-hf", 13_351_494_656, 26.70),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656, 16.58),
        ("HuggingFaceTB/SmolVLM-Instruct", 2_246_272_880, 4.49),
    ],
)
def test_known_models_have_their_size_without_a_download(name: str, parameters: int, bfloat16_gb: float) -> None:
    found = known(ModelSettings(path=name), None)
    assert found is not None
    model = skeleton(found.config)
    shape = vlm_shape(model, found.photo, None)
    assert shape.parameters == parameters
    assert round(part.weights(shape, 2) / 1e9, 2) == bfloat16_gb
    assert part.weights(shape, 2, "nf4") < 0.5 * part.weights(shape, 2)
    assert all(one.is_meta for one in model.parameters())
    assert "lm_head" in unrounded(model)
    assert not any("language_model" in kept for kept in unrounded(model))


def test_every_model_of_the_presets_is_known() -> None:
    from csr_core.params import load_settings
    from csr_core.presets import preset_files

    paths = {load_settings(path).model.path for path in preset_files().values()} - {"miniature"}
    assert paths == set(known_models())


def test_a_model_nobody_knows_is_not_guessed_at() -> None:
    assert known(ModelSettings(path="owner/unheard-of"), None) is None


def test_the_known_reward_model_is_open_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    from csr_core.memory import shapes

    name = "ViT-L-14-336:openai"
    entry = shapes.known_towers()[name]
    assert open_clip.get_pretrained_cfg(*name.split(":"))["hf_hub"].rstrip("/") == entry["hub"]
    here = tower_shape(RewardSettings(model=name))
    monkeypatch.setattr(shapes, "known_towers", dict)  # so that open_clip is asked
    assert here == tower_shape(RewardSettings(model=name))


def test_the_reward_models() -> None:
    small = tower_shape(RewardSettings())
    assert small is not None
    real = sum(one.numel() for one in load_relevance(RewardSettings()).model.parameters())
    assert abs(small.parameters - real) < 0.01 * real  # from the file's size, its head included
    assert tower_shape(RewardSettings(model="nothing:none")) is None
