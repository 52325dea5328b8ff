"""Families that no table knows: one that honours the interface works; what does not is refused with its reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from csr_core.config import ModelSettings
from csr_core.errors import InputError
from csr_core.evaluation.answers import greedy_rows
from csr_core.miniature.weights import shipped
from csr_core.policy import load_policy
from csr_core.policy.families import Family, check_processor
from csr_core.search.prefixes import Prefixes
from tests.families.checkpoints import FAMILIES, PATCH, SQUARE, VISION, llama2, llava_next, save, text, token, turns
from tests.families.test_families import QUESTIONS, pictures, stock_greedy


def mistral3() -> tuple[Any, Any, str]:
    processor = transformers.PixtralProcessor(
        image_processor=transformers.PixtralImageProcessor(size={"longest_edge": 32}, patch_size=PATCH),
        tokenizer=llama2("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]"),
        patch_size=PATCH,
        spatial_merge_size=2,
    )
    config = transformers.Mistral3Config(
        text_config=text("mistral", processor.tokenizer, sliding_window=None, head_dim=8),
        vision_config={"model_type": "pixtral", **VISION, "image_size": 32, "patch_size": PATCH, "head_dim": 16},
        image_token_index=token(processor, "[IMG]"),
        spatial_merge_size=2,
    )
    return config, processor, turns("[IMG]", "[INST]%s[/INST]", " %s</s>", "", "<s>")


def next_with_windows() -> tuple[Any, Any, str]:
    """LLaVA-NeXT on the first Mistral, all of whose layers have a window."""
    config, processor, template = llava_next()
    config.text_config.sliding_window = 24
    return config, processor, template


@pytest.mark.parametrize("build", [mistral3, next_with_windows])
def test_one_beam_is_stock_greedy(
    build: Callable[[], tuple[Any, Any, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistral 3 is in no table of ours."""
    monkeypatch.setitem(FAMILIES, "another", build)
    policy = load_policy(ModelSettings(path=str(save("another", tmp_path, talks=False)), device="cpu"))
    asked = list(zip(pictures(), QUESTIONS, strict=True))
    ours = dict(greedy_rows(Prefixes(policy), [policy.encode(*one) for one in asked], 10, batch_size=3))
    assert [ours[place] for place in range(3)] == [stock_greedy(policy, *one) for one in asked]


def mllama() -> tuple[Any, Any, str]:
    """Its language model looks at pictures from layers of their own, which keep no past by token."""
    processor = transformers.MllamaProcessor(
        image_processor=transformers.MllamaImageProcessor(size=SQUARE, max_image_tiles=2),
        tokenizer=llama2("<|image|>", "<|begin_of_text|>"),
    )
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1}
    vision |= {"attention_heads": 2, "image_size": 32, "patch_size": PATCH, "max_num_tiles": 2, "vision_output_dim": 64}
    vision |= {"intermediate_layers_indices": [0], "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]]}
    config = transformers.MllamaConfig(
        text_config=text(None, processor.tokenizer, cross_attention_layers=[1]),
        vision_config=vision,
        image_token_index=token(processor, "<|image|>"),
    )
    return config, processor, turns("<|image|>", "%s ", " %s</s>", "", "<s>")


def test_a_model_that_goes_on_otherwise_is_refused_at_its_first_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FAMILIES, "Mllama", mllama)
    policy = load_policy(ModelSettings(path=str(save("Mllama", tmp_path)), device="cpu"))
    with pytest.raises(InputError, match=r"Mllama.*cannot go on from a prompt's keys and values.*model\.path"):
        Prefixes(policy).get([policy.encode(Image.new("RGB", (64, 64)), "What?")])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the shipped model that a test may change."""
    return Path(shutil.copytree(shipped("llava"), tmp_path / "model"))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "qwen2"}, r"'qwen2', which transformers does not list"),
        ({"model_type": "florence2"}, "reads the prompt with an encoder"),
        ({"model_type": "instructblip", "text_config": {"model_type": "t5"}}, "reads the prompt with an encoder"),
        ({"model_type": "qwen3_5"}, r"layers of the kinds \['linear_attention'\].*token by token"),
    ],
    ids=["text alone", "encoder and decoder", "with T5", "another memory"],
)
def test_refused_from_the_configuration_alone(checkpoint: Path, config: dict[str, Any], reason: str) -> None:
    (checkpoint / "config.json").write_text(json.dumps(config))
    # Weights are not looked at before.
    (checkpoint / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=rf"(?s){reason}.*model\.path"):
        load_policy(ModelSettings(path=str(checkpoint), device="cpu"))


def test_a_template_without_a_place_for_the_picture_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    template = tmp_path / "text.jinja"
    template.write_text("{% for m in messages %}{{ m['role'] }}{% endfor %}")
    with pytest.raises(InputError, match=r"expected '<image>' in it for each.*prompt_template"):
        load_policy(ModelSettings(path=str(checkpoint), device="cpu", prompt_template=str(template)))
    template.write_text("{{ raise_exception('no pictures here') }}")
    with pytest.raises(InputError, match=r"cannot render 1 picture.*no pictures here.*prompt_template"):
        load_policy(ModelSettings(path=str(checkpoint), device="cpu", prompt_template=str(template)))


def test_a_tokenizer_alone_is_no_processor() -> None:
    with pytest.raises(InputError, match=r"LlamaTokenizer without tokenizer.*for text alone"):
        check_processor(llama2("<image>"), Family(), "some/model")


def test_pictures_tokens_are_never_written(tmp_path: Path) -> None:
    """Gemma 3 has two: what the template writes, and what it is filled up with."""
    policy = load_policy(ModelSettings(path=str(save("Gemma 3", tmp_path)), device="cpu"))
    named = policy.tokenizer.convert_tokens_to_ids(["<start_of_image>", "<image_soft_token>"])
    assert set(named) <= set(policy.suppressed_ids)
    assert torch.tensor(named).min() > 0
