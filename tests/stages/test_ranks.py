"""Fine-tuning in two processes on the CPU, which talk through gloo, and what becomes of them when one dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
import transformers
from safetensors.torch import load_file

from csr_core.checks import refuse_missing_gpus
from csr_core.config import FinetuneSettings, RunSettings, Settings
from csr_core.dpo import fitting, train
from csr_core.dpo.ranks import rank
from csr_core.errors import CsrError, InputError, OutOfMemoryError, SettingsError
from csr_core.records import PREFERENCES, write_table
from csr_core.stages.finetune import finetune
from csr_core.stages.gpus import gpu_slot
from csr_core.stages.launch import launch, process_count
from tests.dpo.world import scene_folder, settings

PAIRS = 10
ADAPTER = "adapter_model.safetensors"
EXACT = ("step", "loss", "grad_norm", "learning_rate")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def preferences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scene_folder(tmp_path_factory.mktemp("pairs"), PAIRS)


def asked(processes: int | None, fsdp: bool = False, **values: Any) -> Settings:
    """Updates of four pairs: two steps of two unless told otherwise."""
    made = settings(**({"batch_size": 2, "accumulation": 2, "epochs": 2} | values))
    return made.model_copy(update={"run": RunSettings(num_processes=processes, fsdp=fsdp)})


def stage(out: Path, preferences: Path, processes: int, adapter: Path | None = None, **values: Any) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    finetune(asked(processes, **values), 2 if adapter else 1, preferences, adapter, out)
    return out


def log_of(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "training.jsonl").read_text().splitlines()]


def assert_same_training(one: Path, other: Path) -> None:
    """But for means over tokens, taken over both processes or step by step, and the share of the epoch."""
    for left, right in zip(log_of(one), log_of(other), strict=True):
        assert left.keys() == right.keys()
        names = [name for name in left if name in EXACT or name.startswith(("rewards/", "logps/"))]
        assert len(names) == 10
        for name in names:
            assert left[name] == pytest.approx(right[name], abs=1e-5), name
    weights = [load_file(out / ADAPTER) for out in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        # A gradient of next to nothing is rounded one way or the other, and Adam makes a whole step of it.
        assert torch.allclose(value, weights[1][name], atol=1e-5), name
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())


@pytest.fixture(scope="module")
def first(preferences: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stage(tmp_path_factory.mktemp("models") / "iter_1", preferences, 1)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"group_by_length": True, "likelihood_weight": 0.5},
        {"batch_size": 4, "accumulation": 1, "target_modules": r".*\.q_proj"},  # those of the vision tower too
    ],
    ids=["random", "by-length", "one-step"],
)
def test_two_processes_train_as_one_does(
    preferences: Path, first: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    """Every loss and metric to 1e-5; of the first iteration and, where a reference adapter is held, of the second."""
    one = stage(tmp_path / "one", preferences, 1, **values) if values else first
    two = stage(tmp_path / "two", preferences, 2, **values)
    assert log_of(two)[0]["loss"] != log_of(two)[-1]["loss"]
    assert_same_training(one, two)
    if not values:
        further = [stage(tmp_path / f"further-{n}", preferences, n, adapter=one) for n in (1, 2)]
        assert log_of(further[1])[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-6)
        assert_same_training(*further)


def _as_on_gpus(*arguments: Any) -> None:
    """accelerate shards on GPUs alone, though gloo can do it on a CPU: let it take one for the other."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    configured = train.trainer_settings

    def on_gpus(*given: Any) -> Any:
        made = configured(*given)
        assert made.device.type == "cpu"
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return made

    train.trainer_settings = on_gpus
    finetune(*arguments)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sharded_model_trains_as_a_whole_one(preferences: Path, first: Path, tmp_path: Path, dtype: str) -> None:
    """FSDP2: of the first iteration in bfloat16, of the second, with a reference adapter, in float32."""
    adapter = first if dtype == "float32" else None
    wanted = asked(2, fsdp=True)
    wanted = wanted.model_copy(update={"model": wanted.model.model_copy(update={"dtype": dtype})})
    whole, sharded = tmp_path / "whole", tmp_path / "sharded"
    for out in (whole, sharded):
        out.mkdir()
    finetune(wanted.model_copy(update={"run": RunSettings()}), 2, preferences, adapter, whole)
    launch(2, "cpu", _as_on_gpus, wanted, 2, preferences, adapter, sharded)
    if dtype == "float32":
        assert_same_training(whole, sharded)
        return
    start, _ = log_of(sharded)[0], log_of(whole)[0]
    assert start["loss"] == pytest.approx(0.693147, abs=1e-6), "rounded to bfloat16 it would be 0.6914"
    for left, right in zip(log_of(whole), log_of(sharded), strict=True):
        assert left["loss"] == pytest.approx(right["loss"], abs=5e-3)
    assert load_file(sharded / ADAPTER).keys() == load_file(whole / ADAPTER).keys()


def _short_of_memory(*arguments: Any) -> None:
    if rank() == 1:
        fitting.USED = 0.0
    finetune(*arguments)


def test_steps_are_split_to_fit_every_process(preferences: Path, first: Path, tmp_path: Path) -> None:
    """Were only the second process to halve its batches, they would wait for each other for ever."""
    launch(2, "cpu", _short_of_memory, asked(2), 1, preferences, None, tmp_path)
    assert log_of(tmp_path)[1]["loss"] == pytest.approx(log_of(first)[1]["loss"], abs=1e-5)
    assert_same_training(first, tmp_path)


def _saving_each_step(out: Path, *arguments: Any) -> None:
    train.CHECKPOINT_SECONDS = 0.0
    (out.parent / f"rank-{rank()}").write_text(str(os.getpid()))
    finetune(*arguments, out)


@pytest.mark.skipif(
    transformers.__version__.startswith("5.17."),
    reason="transformers 5.17 puts ranks without a GPU on cpu:0, where torch can load no optimizer to go on with",
)
def test_a_killed_process_ends_the_others_and_the_next_run_goes_on(
    preferences: Path, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stage(tmp_path / "whole", preferences, 2, adapter=first, lora_dropout=0.1)
    out = tmp_path / "killed" / "out"
    out.mkdir(parents=True)
    process = _start(
        "from tests.stages.test_ranks import *; from tests.stages.test_ranks import _saving_each_step\n"
        "preferences, adapter, out = map(Path, sys.argv[1:])\n"
        "arguments = (asked(2, lora_dropout=0.1), 2, preferences, adapter)\n"
        "launch(2, 'cpu', _saving_each_step, out, *arguments)",
        *(preferences, first, out),
    )
    while process.poll() is None and not (out / ".trainer/checkpoint-3").exists():
        time.sleep(0.001)
    pids = [int((out.parent / f"rank-{each}").read_text()) for each in (0, 1)]
    os.kill(pids[1], signal.SIGKILL)
    errors = process.communicate(timeout=60)[1]
    assert "OutOfMemoryError: rank 1 of fine-tuning was killed" in errors
    assert errors.count("reading pairs: 10/10") == 1, "only the first process tells of progress"
    assert "reads each twice" not in errors, "prompts were to be shared between answers"
    assert "find_unused_parameters" not in errors, "a warning that helps nobody"
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not (out / "summary.json").exists()
    assert list((out / ".trainer").glob("checkpoint-*/trainer_state.json")), "nothing to go on from"
    stage(out, preferences, 2, adapter=first, lora_dropout=0.1)
    for file in whole.iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes(), file.name


def _start(code: str, *arguments: Any, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", f"import sys\nfrom pathlib import Path\n{code}", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)


def _sleep(folder: Path) -> None:
    dist.barrier()
    (folder / f"rank-{rank()}").write_text(str(os.getpid()))
    time.sleep(600)


def test_none_is_left_when_the_stage_is_killed(tmp_path: Path) -> None:
    """Alone; a kill of its process group reaches all of them."""
    process = _start(
        "from tests.stages.test_ranks import launch; from tests.stages.test_ranks import _sleep\n"
        "launch(2, 'cpu', _sleep, Path(sys.argv[1]))",
        tmp_path,
        start_new_session=True,
    )
    files = [tmp_path / f"rank-{each}" for each in (0, 1)]
    while process.poll() is None and not all(file.exists() and file.read_text() for file in files):
        time.sleep(0.05)
    pids = [int(file.read_text()) for file in files]
    assert {os.getpgid(pid) for pid in pids} == {process.pid}, "out of reach of what ends a stage"
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 20
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _fail(error: BaseException) -> None:
    if rank() == 1:
        raise error
    dist.barrier()  # in vain


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemoryError, r"finetune\.batch_size"),
        (InputError("a picture is gone"), InputError, "a picture is gone"),
        (KeyError("odd"), RuntimeError, r"(?s)rank 1 .*KeyError: 'odd'"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_a_process_fails_of_is_what_the_stage_fails_of(
    error: BaseException, kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text) as raised:
        launch(2, "cpu", _fail, error)
    assert isinstance(raised.value, CsrError) == (kind is not RuntimeError)


def test_no_pairs_is_told_as_by_one_process(tmp_path: Path) -> None:
    write_table(tmp_path / "preferences/preferences.parquet", [], PREFERENCES)
    with pytest.raises(InputError, match=r"none of the 0 preference pairs"):
        stage(tmp_path / "out", tmp_path / "preferences", 2)


def test_how_many_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def count(processes: int | None, fsdp: bool = False, device: str = "auto", **values: int) -> int:
        made = asked(processes, fsdp, **values)
        return process_count(made.model_copy(update={"model": made.model.model_copy(update={"device": device})}))

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (count(None), count(2), count(4, device="cpu")) == (1, 2, 4)
    with pytest.raises(SettingsError, match=r"run.fsdp.*several GPUs"):
        count(2, fsdp=True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,5")
    assert (count(None), count(None, device="cpu"), count(None, device="cuda:1"), count(2)) == (4, 1, 1, 2)
    assert count(None, batch_size=3, accumulation=6) == 3  # 18 pairs cannot be shared by four
    assert count(None, fsdp=True) == 4
    with pytest.raises(SettingsError, match=r"run.num_processes is 8.*4 can be used \(0, 1, 2, 5\)"):
        count(8, batch_size=8)
    with pytest.raises(SettingsError, match=r"run.num_processes is 8"):  # before anything is run
        refuse_missing_gpus(Settings(finetune=FinetuneSettings(batch_size=8), run=RunSettings(num_processes=8)))
    with pytest.raises(SettingsError, match=r"run.num_processes is 2.*1 can be used \(cuda:1\)"):
        count(2, device="cuda:1")
    with pytest.raises(SettingsError, match=r"run.fsdp"):
        count(1, fsdp=True)


def test_several_gpus_are_taken_at_once_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5")
    with gpu_slot("auto", ["4"], tmp_path):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5")
        with gpu_slot("auto", folder=tmp_path, count=2) as held:
            assert held == os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
        waiting = _start(
            "from csr_core.stages.gpus import gpu_slot\n"
            "with gpu_slot('auto', ['3', '4', '5'], Path(sys.argv[1]), count=3) as held:\n"
            "    print(held, file=sys.stderr)",
            tmp_path,
        )
        assert waiting.stderr is not None
        assert waiting.stderr.readline().startswith("waiting for 3 of the GPUs")
        with gpu_slot("auto", ["3", "5"], tmp_path, count=2) as held:  # the one that waits holds none of them
            assert held == "3,5"
    assert waiting.communicate(timeout=30)[1].strip() == "3,4,5"
    with pytest.raises(SettingsError, match="4 GPUs"), gpu_slot("auto", ["0", "1"], tmp_path, count=4):
        pass
