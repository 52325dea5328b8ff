from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from csr_core.config import ModelSettings
from csr_core.dpo.pairs import PairCollator
from csr_core.errors import InputError, SettingsError
from csr_core.policy import load_policy
from csr_core.policy.adapters import is_adapted
from csr_core.records import PREFERENCES, read_json, write_table
from csr_core.stages.finetune import derived_seed, finetune
from tests.dpo.world import scene_folder, scene_preferences, settings

PAIRS = 10
STEPS = 6  # 10 pairs in batches of 4, two epochs
ADAPTER = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scene_folder(tmp_path_factory.mktemp("pairs"), PAIRS)


def stage(out: Path, preferences: Path, iteration: int = 1, adapter: Path | None = None, **values: Any) -> Any:
    out.mkdir(parents=True, exist_ok=True)
    return finetune(settings(**({"epochs": 2} | values)), iteration, preferences, adapter, out)


def log_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def first(preferences: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Iteration 1, never interrupted."""
    out = tmp_path_factory.mktemp("models") / "iter_1"
    stage(out, preferences)
    return out


def test_files_and_summary(first: Path) -> None:
    assert sorted(path.name for path in first.iterdir()) == [
        "adapter_config.json",
        ADAPTER,
        "summary.json",
        "training.jsonl",
    ]
    summary, log = read_json(first / "summary.json"), log_of(first)
    assert (summary["pairs"], summary["left_out"], summary["steps"], summary["carry"]) == (PAIRS, [], STEPS, "adapter")
    assert [row["step"] for row in log] == list(range(1, STEPS + 1))
    wanted = {"loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"}
    assert all(wanted | {"logps/rejected", "learning_rate"} <= set(row) for row in log)
    assert not any("runtime" in name or "second" in name for row in log for name in row)
    assert summary["final"]["rewards/margins"] == round(log[-1]["rewards/margins"], 6)
    assert log[-1]["rewards/margins"] > 0.01 > log[0]["rewards/margins"]
    adapted = load_policy(ModelSettings(device="cpu"), first)
    assert summary["adapter_parameters"] == sum(
        value.numel() for name, value in adapted.model.named_parameters() if "lora" in name
    )


def test_the_same_run_gives_the_same_files(first: Path, preferences: Path, tmp_path: Path) -> None:
    stage(tmp_path / "again", preferences)
    for file in first.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_another_seed_or_iteration_is_another_run(first: Path, preferences: Path, tmp_path: Path) -> None:
    assert len({derived_seed(seed, iteration) for seed in range(20) for iteration in range(20)}) == 400
    stage(tmp_path / "other", preferences, seed=1)
    assert (tmp_path / "other" / ADAPTER).read_bytes() != (first / ADAPTER).read_bytes()


def test_a_finished_stage_is_not_run_again(first: Path, preferences: Path) -> None:
    leftover = first / ".trainer"
    leftover.mkdir()
    before = (first / ADAPTER).stat().st_mtime_ns
    assert stage(first, preferences) == read_json(first / "summary.json")
    assert (first / ADAPTER).stat().st_mtime_ns == before
    assert not leftover.exists()


def test_no_path_of_this_machine_is_written(first: Path, preferences: Path) -> None:
    for file in first.iterdir():
        content = file.read_bytes()
        assert str(Path(__file__).resolve().parents[2]).encode() not in content, file.name
        assert str(preferences.parent).encode() not in content, file.name


# Saves at every step, so that a kill finds checkpoints whole and half-written.
_KILLED = """
import sys
from pathlib import Path
from csr_core.dpo import train
train.CHECKPOINT_SECONDS = 0.0
from tests.stages.test_finetune import stage
preferences, adapter, out = (Path(argument) for argument in sys.argv[1:])
stage(out, preferences, iteration=2, adapter=adapter)
"""


def test_killed_and_run_again_ends_with_the_same_adapter(
    first: Path, preferences: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the second iteration, where checkpoints hold a frozen reference adapter too."""
    whole, out = tmp_path / "whole", tmp_path / "killed"
    stage(whole, preferences, iteration=2, adapter=first)
    out.mkdir()
    root = Path(__file__).resolve().parents[2]
    threads = str(torch.get_num_threads())
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(preferences), str(first), str(out)],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": threads},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        while process.poll() is None and not (out / ".trainer/checkpoint-3").exists():
            time.sleep(0.001)
    finally:
        process.send_signal(signal.SIGKILL)
        errors = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL, errors
    assert not (out / "summary.json").exists()
    assert list((out / ".trainer").glob("checkpoint-*/trainer_state.json")), "nothing to go on from"
    seen: list[int] = []
    original = PairCollator.__call__
    monkeypatch.setattr(PairCollator, "__call__", lambda self, rows: seen.append(len(rows)) or original(self, rows))
    stage(out, preferences, iteration=2, adapter=first)
    trained = [count for count in seen if count > 1]  # single pairs are tried before training begins
    assert 0 < len(trained) < STEPS, "it went on, it did not begin again"
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in whole.iterdir())
    for file in whole.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name


def test_checkpoints_of_other_pairs_are_not_taken_up(first: Path, preferences: Path, tmp_path: Path) -> None:
    """A picture that went missing after an interruption: the run begins again on what is left."""
    out = tmp_path / "out"
    work = out / ".trainer/checkpoint-5"
    work.mkdir(parents=True)
    (work / "trainer_state.json").write_text('{"global_step": 5}')
    (out / ".trainer/run.json").write_text('{"rows": "of another run"}')
    (out / ADAPTER).write_text("half an adapter")
    stage(out, preferences)
    assert (out / ADAPTER).read_bytes() == (first / ADAPTER).read_bytes()


def test_merged_models_carry_on(preferences: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "iter_1", tmp_path / "iter_2"
    values = {"carry": "merged", "batch_size": PAIRS}  # each step sees all pairs: first steps can be compared
    summary = stage(one, preferences, **values)
    assert summary["carry"] == "merged"
    assert (one / "model.safetensors").is_file()
    assert not (one / "adapter_config.json").exists()
    assert not is_adapted(load_policy(ModelSettings(device="cpu"), one).model)
    stage(two, preferences, iteration=2, adapter=one, **values)
    start, further = log_of(one)[0], log_of(two)[0]
    assert further["rewards/margins"] == pytest.approx(0.0, abs=1e-6)
    assert further["loss"] == pytest.approx(0.693147, abs=1e-5)
    assert further["logps/chosen"] - further["logps/rejected"] > start["logps/chosen"] - start["logps/rejected"]


def test_from_adapters_to_merged_models(first: Path, preferences: Path, tmp_path: Path) -> None:
    carried = tmp_path / "carried"
    stage(carried, preferences, iteration=2, adapter=first)
    merged = tmp_path / "merged"
    stage(merged, preferences, iteration=2, adapter=first, carry="merged")
    a, b = log_of(carried)[0], log_of(merged)[0]
    assert b["logps/chosen"] == pytest.approx(a["logps/chosen"], abs=1e-3)  # the same start, in two forms


def test_an_adapter_of_another_shape_is_refused(first: Path, preferences: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"finetune.lora_rank is 8.*has 4"):
        stage(tmp_path / "out", preferences, iteration=2, adapter=first, lora_rank=8)


def test_bad_pictures_leave_the_rest_unharmed(tmp_path: Path) -> None:
    rows = scene_preferences(tmp_path / "images", 4)
    Path(rows[1]["images"][0]).unlink()
    write_table(tmp_path / "preferences/preferences.parquet", rows, PREFERENCES)
    summary = stage(tmp_path / "out", tmp_path / "preferences", epochs=1)
    assert summary["pairs"] == 3
    assert [entry["prompt_id"] for entry in summary["left_out"]] == ["p1"]
    assert "missing" in summary["left_out"][0]["reason"]


def test_batches_add_up_as_counted(preferences: Path, tmp_path: Path) -> None:
    summary = stage(tmp_path / "out", preferences, batch_size=2, accumulation=2, epochs=1.5, scheduler="constant")
    assert summary["steps"] == 5  # 5 batches are 3 steps an epoch; 4.5, so 5
    assert {row["learning_rate"] for row in log_of(tmp_path / "out")} == {1e-3}


def test_no_pairs_is_an_error_that_teaches(tmp_path: Path) -> None:
    write_table(tmp_path / "preferences/preferences.parquet", [], PREFERENCES)
    with pytest.raises(InputError, match=r"none of the 0 preference pairs.*pair stage"):
        stage(tmp_path / "out", tmp_path / "preferences")
