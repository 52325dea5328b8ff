from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from csr_core.config import FinetuneSettings, ModelSettings
from csr_core.dpo.pairs import PairCollator, Pairs, usable_pairs
from csr_core.dpo.train import Trained, last_checkpoint, total_steps, train
from csr_core.errors import CsrError, SettingsError
from csr_core.policy import Policy, load_policy
from csr_core.policy.adapters import is_adapted, save_adapter
from csr_core.records import write_json
from tests.dpo.world import scene_preferences, settings

PIXELS = 1_000_000
MODEL = ModelSettings(device="cpu")


def answer_log_likelihoods(model: Any, batch: dict[str, Tensor]) -> tuple[Float[Tensor, " rows"], Tensor]:
    """Sum of log p over each row's answer, from the plain logits; and the number of answer tokens of each row."""
    inputs = {name: value for name, value in batch.items() if name != "completion_mask"}
    with torch.no_grad():
        logits = model(**inputs).logits
    log_p = torch.log_softmax(logits[:, :-1].double(), dim=-1).gather(2, batch["input_ids"][:, 1:, None])[..., 0]
    mask = batch["completion_mask"][:, 1:]
    return (log_p * mask).sum(dim=1), mask.sum(dim=1)


def loss_by_hand(policy: list[float], reference: list[float], beta: float) -> float:
    """-log sigmoid(beta * ((p+ - r+) - (p- - r-))) of one pair's log-likelihoods [chosen, rejected].

    With p = [-10, -20], r = [-11, -18], beta 0.1: (-10 + 11) - (-20 + 18) = 1 + 2 = 3; 0.1 * 3 = 0.3;
    sigmoid(0.3) = 1 / (1 + e^-0.3) = 1 / 1.740818 = 0.574443; -log of it = 0.554355.
    With p = r: sigmoid(0) = 0.5, the loss is ln 2 = 0.693147.
    """
    x = beta * ((policy[0] - reference[0]) - (policy[1] - reference[1]))
    return math.log1p(math.exp(-x))


def test_the_hand_worked_case() -> None:
    assert loss_by_hand([-10, -20], [-11, -18], 0.1) == pytest.approx(0.554355, abs=1e-6)
    assert loss_by_hand([-3, -4], [-3, -4], 0.1) == pytest.approx(math.log(2))


def run(policy: Policy, pairs: Pairs, work: Path, **values: Any) -> Trained:
    return train(policy, pairs, settings(**values).finetune, seed=5, max_pixels=PIXELS, work=work)


@pytest.fixture(scope="module")
def one_pair(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return usable_pairs(load_policy(MODEL), scene_preferences(tmp_path_factory.mktemp("one"), 1), PIXELS)


@pytest.fixture(scope="module")
def first(one_pair: Pairs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    """Iteration 1 on one pair, three steps, and its saved adapter."""
    folder = tmp_path_factory.mktemp("first")
    trained = run(load_policy(MODEL), one_pair, folder / "work", epochs=3, beta=0.2, likelihood_weight=0.5)
    save_adapter(trained.model, folder / "adapter", base="miniature")
    return trained, folder / "adapter"


def test_the_loss_is_that_by_hand(one_pair: Pairs, first: tuple[Trained, Path]) -> None:
    """Step 1: ln 2 + w * NLL(chosen) of the base. What step 4 would be follows from the saved adapter's logits."""
    base = load_policy(MODEL)
    batch = PairCollator(base, PIXELS)(one_pair.rows)
    reference, tokens = answer_log_likelihoods(base.model, batch)
    log = first[0].log
    assert log[0]["loss"] == pytest.approx(math.log(2) + 0.5 * float(-reference[0] / tokens[0]), abs=1e-4)
    assert log[0]["logps/chosen"] == pytest.approx(float(reference[0]), abs=1e-3)
    assert log[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["rewards/margins"] > 0.0

    adapted = load_policy(MODEL, first[1])
    now, _ = answer_log_likelihoods(adapted.model, batch)
    expected = loss_by_hand(now.tolist(), reference.tolist(), 0.2) + 0.5 * float(-now[0] / tokens[0])
    again = trainer_loss(one_pair, first[0].model, beta=0.2, likelihood_weight=0.5)
    assert again == pytest.approx(expected, abs=1e-4)
    assert expected < math.log(2) + 0.5 * float(-reference[0] / tokens[0]) - 0.01


def trainer_loss(pairs: Pairs, model: Any, **values: Any) -> float:
    """TRL's loss of `model` (adapter off = reference) on `pairs`, without a step."""
    from datasets import Dataset
    from trl import DPOTrainer

    from csr_core.dpo.train import trainer_settings

    policy = load_policy(MODEL)
    batch = PairCollator(policy, PIXELS)
    config = trainer_settings(policy, settings(**values).finetune, 1, 0, Path(tempfile.mkdtemp()))
    fresh = load_policy(MODEL, trainable=True).model
    trainer = DPOTrainer(
        model=fresh,
        args=config,
        train_dataset=Dataset.from_list(pairs.rows),
        data_collator=batch,
        processing_class=policy.processor,
        peft_config=model.peft_config["default"],
    )
    trained = dict(model.named_parameters())
    for name, value in trainer.model.named_parameters():
        value.data.copy_(trained[name].data)
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch(pairs.rows)))


def test_the_second_iteration_starts_at_its_own_reference(
    one_pair: Pairs, first: tuple[Trained, Path], tmp_path: Path
) -> None:
    policy = load_policy(MODEL, first[1], trainable=True)
    assert is_adapted(policy.model)
    start, _ = answer_log_likelihoods(policy.model, PairCollator(policy, PIXELS)(one_pair.rows))
    trained = run(policy, one_pair, tmp_path / "work", epochs=3)
    log = trained.log
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert log[0]["rewards/chosen"] == pytest.approx(0.0, abs=1e-6)
    assert log[0]["logps/chosen"] == pytest.approx(float(start[0]), abs=1e-3)
    assert log[0]["logps/chosen"] != pytest.approx(first[0].log[0]["logps/chosen"], abs=1e-2), "that would be the base"

    from safetensors.torch import load_file

    before = load_file(first[1] / "adapter_model.safetensors")
    now = dict(trained.model.named_parameters())
    for name, value in before.items():
        stem = name.removesuffix(".weight")
        assert torch.equal(now[f"{stem}.ref.weight"], value), "the reference is frozen"
    assert any(not torch.equal(now[f"{name.removesuffix('.weight')}.default.weight"], before[name]) for name in before)


def test_only_the_language_models_adapter_is_trained(first: tuple[Trained, Path]) -> None:
    base = dict(load_policy(MODEL).model.named_parameters())
    for name, value in first[0].model.named_parameters():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if plain in base:
            assert torch.equal(value, base[plain]), name
        else:
            assert "language_model" in name
            assert "lora" in name


def test_dropout_is_in_the_trained_adapter_alone(one_pair: Pairs, tmp_path: Path) -> None:
    trained = run(load_policy(MODEL), one_pair, tmp_path / "a", lora_dropout=0.5)
    save_adapter(trained.model, tmp_path / "adapter", base="miniature")
    further = run(load_policy(MODEL, tmp_path / "adapter", trainable=True), one_pair, tmp_path / "b", lora_dropout=0.5)
    rates = {name: part.p for name, part in further.model.named_modules() if isinstance(part, torch.nn.Dropout)}
    assert {rate for name, rate in rates.items() if name.endswith("lora_dropout.default")} == {0.5}
    assert {rate for name, rate in rates.items() if name.endswith("lora_dropout.ref")} == {0.0}


def test_a_loss_that_is_no_number_stops_with_advice(one_pair: Pairs, tmp_path: Path) -> None:
    with pytest.raises(CsrError, match=r"(?s)(loss of step|no numbers).*finetune.learning_rate"):
        run(load_policy(MODEL), one_pair, tmp_path / "work", learning_rate=1e38, epochs=4)


def test_float16_on_a_cpu_is_refused_first(one_pair: Pairs, tmp_path: Path) -> None:
    policy = load_policy(ModelSettings(device="cpu", dtype="float16"))
    with pytest.raises(SettingsError, match="float16"):
        run(policy, one_pair, tmp_path / "work")


def test_bfloat16_trains(one_pair: Pairs, tmp_path: Path) -> None:
    policy = load_policy(ModelSettings(device="cpu", dtype="bfloat16"))
    log = run(policy, one_pair, tmp_path / "work", epochs=2).log
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert policy.model.dtype is torch.bfloat16


def test_memory_saving_changes_nothing(one_pair: Pairs, tmp_path: Path) -> None:
    logs = [
        run(load_policy(MODEL), one_pair, tmp_path / str(on), epochs=2, gradient_checkpointing=on).log
        for on in (False, True)
    ]
    assert logs[0][1]["loss"] == pytest.approx(logs[1][1]["loss"], abs=1e-5)
    assert logs[0][1]["loss"] < math.log(2)


@pytest.mark.parametrize(
    ("pairs", "batch", "accumulation", "epochs", "steps"),
    [(240, 16, 1, 2.0, 30), (5, 2, 1, 1.0, 3), (5, 2, 2, 1.0, 2), (5, 2, 2, 1.5, 3), (1, 8, 4, 0.1, 1)],
)
def test_total_steps(pairs: int, batch: int, accumulation: int, epochs: float, steps: int) -> None:
    values = FinetuneSettings(batch_size=batch, accumulation=accumulation, epochs=epochs)
    assert total_steps(pairs, values) == steps


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    write_json(tmp_path / "checkpoint-9" / "trainer_state.json", {"global_step": 9})
    (tmp_path / "checkpoint-10").mkdir()
    (tmp_path / "checkpoint-10" / "adapter_model.safetensors").write_text("half")
    (tmp_path / "checkpoint-11").mkdir()
    (tmp_path / "checkpoint-11" / "trainer_state.json").write_text('{"global_st')
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-9"
    assert not (tmp_path / "checkpoint-11").exists()


def test_trainings_are_not_reported_to_the_hub() -> None:
    code = "import csr_core, huggingface_hub.constants as c; print(c.HF_HUB_DISABLE_TELEMETRY)"
    told = {name: value for name, value in os.environ.items() if "TELEMETRY" not in name and name != "DO_NOT_TRACK"}
    done = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
