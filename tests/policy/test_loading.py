from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from csr_core.config import ModelSettings
from csr_core.errors import InputError
from csr_core.images import open_image
from csr_core.miniature.weights import shipped
from csr_core.policy import load_policy
from csr_core.policy.loading import missing_files
from tests.dpo.world import GOLDEN, golden_model


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the shipped model that a test may damage."""
    return Path(shutil.copytree(shipped("llava"), tmp_path / "model"))


def load(path: Path, adapter: Path | None = None) -> None:
    load_policy(ModelSettings(path=str(path), device="cpu"), adapter)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "processor_config.json"])
def test_a_missing_file_is_named(checkpoint: Path, name: str) -> None:
    assert missing_files(checkpoint) == []
    (checkpoint / name).unlink()
    with pytest.raises(InputError) as caught:
        load(checkpoint)
    assert str(checkpoint / name) in str(caught.value)
    assert "model.path" in str(caught.value)


def test_missing_shards_are_named(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    half = len(weights) // 2
    parts = {"a.safetensors": dict(list(weights.items())[:half]), "b.safetensors": dict(list(weights.items())[half:])}
    for name, part in parts.items():
        save_file(part, checkpoint / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: name for name, part in parts.items() for key in part}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    load(checkpoint)
    (checkpoint / "b.safetensors").unlink()
    with pytest.raises(InputError, match=r"missing: \S*b\.safetensors\."):
        load(checkpoint)


def test_weights_cut_short_are_an_error_of_the_input(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cannot load the model.*cut short"):
        load(checkpoint)


def test_a_broken_config_is_an_error_of_the_input(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text('{"model_type": ')
    with pytest.raises(InputError, match="cannot load the model"):
        load(checkpoint)


def test_an_adapter_without_weights_or_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"iter_1 .*previous iteration"):
        load_policy(ModelSettings(device="cpu"), tmp_path / "iter_1")
    (tmp_path / "iter_1").mkdir()
    (tmp_path / "iter_1" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors"):
        load_policy(ModelSettings(device="cpu"), tmp_path / "iter_1")


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.prompt_template is 'vicuna'.*vicuna-v1"):
        load_policy(ModelSettings(device="cpu", prompt_template="vicuna"))


def test_prompts_are_the_authors_to_the_token_and_pixel() -> None:
    """The golden cases hold the ids and pixels that the authors' published code fed to this checkpoint."""
    policy = load_policy(golden_model())
    golden = load_file(GOLDEN / "tensors.safetensors")
    for index, entry in enumerate(json.loads((GOLDEN / "prompts.json").read_text())):
        question = entry["input"].replace("<image>\n", "").replace("\n<image>", "").replace("<image>", "")
        encoded = policy.encode(open_image(GOLDEN / "images" / entry["image"]), question)
        assert encoded.sequence["input_ids"].tolist() == golden[f"{index}.input_ids_expanded"].flatten().tolist()
        assert torch.allclose(encoded.features["pixel_values"], golden[f"{index}.pixel_values"], atol=1e-5)
        single = golden[f"{index}.input_ids"].flatten().tolist()
        assert policy.tokenise(policy.render(question)) == single
