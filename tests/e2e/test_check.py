"""`csr check` where the models are not there: what is missing and what it will need, by the real command."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.e2e.conftest import csr


def test_the_papers_preset_on_a_machine_without_its_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with the hub's client allowed to look for a network: nothing is fetched by a check."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    csr(tmp_path, "init", "--preset", "llava-1.5-7b-paper")
    started = time.monotonic()
    done = csr(tmp_path, "check", check=False)
    spent = time.monotonic() - started
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    text = done.stdout
    for missing in (
        "FAIL  files: data.prompts",
        "FAIL  files: data.images",
        "FAIL  files: evaluate.splits.test.folder",
        "FAIL  policy: llava-hf/llava-1.5-7b-hf is not on this machine",
        "`hf download llava-hf/llava-1.5-7b-hf`, 14.1 GB",
        "FAIL  reward model: ViT-L-14-336:openai is not on this machine",
    ):
        assert missing in text, missing
    memory = [line for line in text.splitlines() if " memory: " in line]
    for stage in ("generate", "score", "finetune", "evaluate"):
        assert any(f"{stage} needs about" in line for line in memory), stage
    if "on this GPU" not in text:
        assert any("on a GPU, bfloat16: generate" in line for line in memory)
    assert "and 13.2 for the model to be fetched" in text
    assert not any((tmp_path / "empty").rglob("*.safetensors"))
    assert spent < 20


def test_a_model_nobody_knows_says_what_is_enough(tmp_path: Path) -> None:
    csr(tmp_path, "init", "--model", "owner/unheard-of")
    done = csr(tmp_path, "check", "--no-trial", check=False)
    assert done.returncode == 1
    assert "FAIL  policy: owner/unheard-of is not on this machine" in done.stdout
    assert "HF_HUB_OFFLINE is set" in done.stdout
    assert "hf download owner/unheard-of config.json" in done.stdout


def test_a_quantised_base_is_refused_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    csr(tmp_path, "init")
    done = csr(tmp_path, "check", "--no-trial", "--set", "model.quantization=nf4", check=False)
    assert done.returncode == 1
    assert "FAIL  settings: model.quantization is 'nf4', which needs a CUDA GPU" in done.stdout
    assert "Traceback" not in done.stderr
    done = csr(tmp_path, "run", "--set", "model.quantization=int8", check=False)
    assert done.returncode == 2
    assert "model.quantization is 'int8', which needs a CUDA GPU" in done.stderr
