"""Long stages in shards: what is there is kept, workers change nothing, memory and GPUs are shared out."""

import itertools
import multiprocessing
import os
import time
from functools import partial
from pathlib import Path

import pytest

from csr_core.config import Settings
from csr_core.errors import OutOfMemoryError
from csr_core.layout import Layout
from csr_core.stages.gpus import gpu_slot, visible_gpus
from csr_core.stages.memory import memory_errors
from csr_core.stages.plan import StageCall, plan, smaller_batches
from csr_core.stages.runner import missing_shards, run_shard, run_stage
from csr_core.stages.shards import Shards, make_missing, part

COUNT = 5


def make(notes: Path, folder: Path, numbers: list[int]) -> None:
    for number in numbers:
        part(folder, number, ".json").write_text(str(number))
        (notes / f"{number}-{os.getpid()}").touch()


def make_beside_another(notes: Path, folder: Path, numbers: list[int]) -> None:
    make(notes, folder, numbers)
    while len({name.name.split("-")[1] for name in notes.iterdir()}) < 2:
        time.sleep(0.01)


def call(root: Path) -> StageCall:
    notes = root / "notes"
    notes.mkdir(exist_ok=True)
    (root / "in.txt").write_text("input")
    shards = Shards(lambda: [1] * COUNT, partial(make, notes), (".json",), cut="1")

    def run(out: Path) -> dict[str, int]:
        return {"sum": sum(int(part(out, number, ".json").read_text()) for number in range(COUNT))}

    return StageCall("score", 1, (root / "in.txt",), {}, {"": Layout(root).scores(1)}, run, shards)


def test_a_stage_goes_on_from_the_shards_that_are_there(tmp_path: Path) -> None:
    stage, layout = call(tmp_path), Layout(tmp_path)
    assert missing_shards(stage, layout) == [0, 1, 2, 3, 4]
    run_shard(stage, layout, 3)
    run_shard(stage, layout, 3)
    assert missing_shards(stage, layout) == [0, 1, 2, 4]
    assert run_stage(stage, layout).summary == {"sum": 10}
    made = sorted(name.name.split("-")[0] for name in (tmp_path / "notes").iterdir())
    assert made == ["0", "1", "2", "3", "4"]
    assert missing_shards(stage, layout) == []
    assert run_stage(stage, layout).cached


def test_shards_of_other_inputs_are_not_taken(tmp_path: Path) -> None:
    stage, layout = call(tmp_path), Layout(tmp_path)
    run_shard(stage, layout, 0)
    (tmp_path / "in.txt").write_text("changed")
    assert missing_shards(stage, layout) == [0, 1, 2, 3, 4]


def test_workers_share_the_missing_shards(tmp_path: Path) -> None:
    """The first shard of each waits for the other's, so that neither has made all before the other began."""
    notes = tmp_path / "notes"
    notes.mkdir()
    shards = Shards(lambda: [1] * COUNT, partial(make_beside_another, notes), (".json",), cut="1")
    make_missing(shards, tmp_path, workers=2)
    assert shards.missing(tmp_path) == []
    processes = {name.name.split("-")[1] for name in (tmp_path / "notes").iterdir()}
    assert len(processes) == 2
    assert str(os.getpid()) not in processes


def test_a_killed_worker_is_told_as_memory(tmp_path: Path) -> None:
    shards = Shards(lambda: [1, 1], _die, (".json",), cut="1")
    with pytest.raises(OutOfMemoryError, match=r"smaller run\.workers"):
        make_missing(shards, tmp_path, workers=2)


def _die(folder: Path, numbers: list[int]) -> None:
    os.kill(os.getpid(), 9)


def test_halved_batches_keep_the_key_and_the_steps() -> None:
    settings = Settings.model_validate(
        {"finetune": {"batch_size": 12, "accumulation": 2}, "generate": {"batch_size": 64}, "reward": {"batch_size": 1}}
    )
    twice = smaller_batches(settings, 2)
    assert (twice.finetune.batch_size, twice.finetune.accumulation) == (3, 8)  # 12 x 2 = 3 x 8 pairs a step
    assert (twice.generate.batch_size, twice.reward.batch_size) == (16, 1)
    thrice = smaller_batches(settings, 3).finetune  # 3 cannot be halved
    assert (thrice.batch_size, thrice.accumulation) == (3, 8)
    layout = Layout(Path("somewhere"))
    for name in ("generate", "finetune", "evaluate"):
        assert plan(name, 1, settings, layout, halved=2).settings == plan(name, 1, settings, layout).settings


def test_out_of_memory_is_told_with_the_setting_to_lower() -> None:
    import torch

    for error in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        with pytest.raises(OutOfMemoryError, match=r"generate\.batch_size"), memory_errors("generate"):
            raise error
    # What a CPU says, for real: an array larger than any machine's address space.
    with pytest.raises(OutOfMemoryError, match="allocate memory"), memory_errors("score"):
        torch.empty(2**55, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="another"), memory_errors("score"):
        raise RuntimeError("another error")


def test_each_gpu_has_one_holder(tmp_path: Path) -> None:
    """Four processes, two GPUs: never more than one holder of each."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_hold, args=(tmp_path,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    spans = sorted(tuple(line.split()) for line in (tmp_path / "held.txt").read_text().splitlines())
    assert len(spans) == 4
    assert {gpu for _, _, gpu, _ in spans} == {"0", "1"}
    for gpu in ("0", "1"):
        times = sorted((float(start), float(end)) for start, end, name, _ in spans if name == gpu)
        for (_, ended), (started, _) in itertools.pairwise(times):
            assert started >= ended


def _hold(folder: Path) -> None:
    with gpu_slot("auto", ["0", "1"], folder) as gpu:
        start = time.monotonic()
        time.sleep(0.3)
        seen = os.environ["CUDA_VISIBLE_DEVICES"]
        assert seen == gpu
        line = f"{start} {time.monotonic()} {gpu} {os.getpid()}\n"
        with (folder / "held.txt").open("a") as file:
            file.write(line)


def test_no_slot_without_gpus_or_for_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gpu_slot("auto", [], tmp_path) as gpu:
        assert gpu is None
    with gpu_slot("cpu", ["0"], tmp_path) as gpu:
        assert gpu is None
    with gpu_slot("cuda:1", ["4", "5"], tmp_path) as gpu:  # the user's numbering is left as it is
        assert gpu == "5"
    for value, found in (("", []), ("-1", []), ("2, 3", ["2", "3"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert visible_gpus() == found
