"""Steps that do not fit into the free memory are computed in parts, and train the same."""

from pathlib import Path

import pytest
import torch

from csr_core.config import ModelSettings
from csr_core.dpo import fitting
from csr_core.dpo.pairs import Pairs, usable_pairs
from csr_core.dpo.train import train
from csr_core.free_memory import saved_bytes
from csr_core.policy import load_policy
from tests.dpo.world import scene_preferences, settings

PIXELS = 1_000_000
MODEL = ModelSettings(device="cpu")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return usable_pairs(load_policy(MODEL), scene_preferences(tmp_path_factory.mktemp("pairs"), 8), PIXELS)


def losses(pairs: Pairs, work: Path, **values) -> list[float]:
    asked = settings(batch_size=4, epochs=2, **values).finetune
    return [row["loss"] for row in train(load_policy(MODEL), pairs, asked, 5, PIXELS, work).log]


def test_what_a_linear_layer_and_a_product_keep() -> None:
    """y = W x keeps x for W's gradient; y * y keeps y, once although it is saved twice. 4 bytes a number."""
    layer, x = torch.nn.Linear(5, 7, bias=False), torch.ones(3, 5)
    assert saved_bytes(lambda: layer(x)) == 3 * 5 * 4

    def squared() -> torch.Tensor:
        y = layer(x)
        return y * y

    assert saved_bytes(squared) == 3 * 5 * 4 + 3 * 7 * 4


def test_a_step_in_parts_trains_as_a_whole_one(pairs, tmp_path, monkeypatch, capsys) -> None:
    whole = losses(pairs, tmp_path / "whole")
    assert "at a time" not in capsys.readouterr().err
    monkeypatch.setattr(fitting, "USED", 0.0)  # as if nothing were free
    assert losses(pairs, tmp_path / "parts") == pytest.approx(whole, abs=1e-4)
    assert "each step is computed 1 pairs at a time" in capsys.readouterr().err


def test_the_trial_leaves_no_trace(pairs, tmp_path, monkeypatch) -> None:
    with_trial = losses(pairs, tmp_path / "with", lora_dropout=0.1)
    monkeypatch.setattr("csr_core.dpo.train.fitted", lambda policy, collator, rows, asked, lora: asked)
    assert losses(pairs, tmp_path / "without", lora_dropout=0.1) == with_trial
