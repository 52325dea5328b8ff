"""What a stage cost is on record, whichever way it ran, and counts for nothing else."""

import json
import multiprocessing
import shutil
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from csr_core.layout import Layout
from csr_core.loop import iterate
from csr_core.params import load_settings, preset_values, render_params
from csr_core.records import write_json
from csr_core.stages import STAGES
from csr_core.stages.__main__ import main
from csr_core.stages.costs import COLUMNS, stage_costs, times_text
from csr_core.stages.plan import StageCall
from csr_core.stages.runner import run_shard, run_stage
from csr_core.stages.shards import Shards, part

SMALL = (
    "iterations=1",
    "data.per_iteration=12",
    "generate.max_sentences=4",
    "pair.drop_closest=0",
    "finetune.epochs=1",
    "finetune.batch_size=4",
    "evaluate.splits.test.count=6",
    "evaluate.splits.shifted.count=4",
    "evaluate.bootstrap=100",
)
SIZE = 200 * 2**20  # bytes that a stage takes here


def take(folder: Path, numbers: list[int]) -> None:
    """Parts of a stage; the second takes memory."""
    for number in numbers:
        taken = bytearray(SIZE if number == 1 else 1)
        taken[:: 2**12] = b"x" * len(taken[:: 2**12])
        part(folder, number, ".json").write_text("0")


def sharded(root: Path) -> StageCall:
    shards = Shards(lambda: [1, 1, 1], take, (".json",), cut="1")
    return StageCall("score", 2, (), {}, {"": Layout(root).scores(2)}, lambda out: {"sentences": 30}, shards)


def hungry(name: str, root: Path, size: int) -> StageCall:
    def run(out: Path) -> dict[str, int]:
        taken = bytearray(size)
        taken[:: 2**12] = b"x" * len(taken[:: 2**12])
        (out / "made").write_text(name)
        return {"prompts": 4}

    return StageCall(name, 1, (), {}, {"": root / name}, run)


def test_the_costs_of_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(render_params(preset_values("steady")))
    settings = load_settings(Path("params.yaml"), SMALL)
    iterate(settings, Layout())
    found = stage_costs(Layout())
    assert [(row["stage"], row["iteration"]) for row in found] == [
        ("prepare", 0),
        ("evaluate", 0),
        *((name, 1) for name in STAGES),
    ]
    assert all(tuple(row) == COLUMNS for row in found)
    by = {(row["stage"], row["iteration"]): row for row in found}
    summary = json.loads(Path("data/iter_1/scores/summary.json").read_text())
    assert (by["score", 1]["items"], by["score", 1]["unit"]) == (summary["sentences"], "sentences")
    assert (by["generate", 1]["items"], by["evaluate", 1]["items"]) == (12, 6 + 36 + 4 + 24)
    assert by["prepare", 0]["items"] == 6 + 4
    assert by["guard", 1]["items"] is None
    for row in found:
        assert row["seconds"] > 0
        assert 50 < row["peak_mib"] < 50_000
        assert not row["cached"]
        assert not row["resumed"]
    assert by["finetune", 1]["unit"] == "pairs"
    before = by["generate", 1]["seconds"]
    iterate(settings, Layout())
    assert all(row["cached"] for row in stage_costs(Layout()))
    assert stage_costs(Layout())[3]["seconds"] == before, "what it took is remembered where there was nothing to do"
    shutil.rmtree(".csr")
    assert len(stage_costs(Layout())) == len(found), "the state may be deleted"


def test_each_stage_is_told_its_own_memory(tmp_path: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("the peak of a part of a process's life is known on Linux alone")
    layout = Layout(tmp_path)
    for call in (hungry("prepare", tmp_path, SIZE), hungry("generate", tmp_path, 1)):
        run_stage(call, layout)
    first, second = (row["peak_mib"] for row in stage_costs(layout))
    assert first - second > 0.9 * SIZE / 2**20


def test_workers_and_shard_processes_are_counted(tmp_path: Path) -> None:
    run_stage(sharded(tmp_path / "pool"), Layout(tmp_path / "pool"), workers=2)
    [pool] = stage_costs(Layout(tmp_path / "pool"))
    assert (pool["workers"], pool["items"], pool["resumed"]) == (2, 30, False)
    apart = tmp_path / "apart"
    context = multiprocessing.get_context("spawn")
    for number in range(3):
        process = context.Process(target=partial(_shard, apart, number))
        process.start()
        process.join()
        assert process.exitcode == 0
    run_stage(sharded(apart), Layout(apart))
    [whole] = stage_costs(Layout(apart))
    assert whole["resumed"], "its shards were there"
    assert whole["peak_mib"] > SIZE / 2**20, "the largest of its processes"
    assert not any((apart / ".csr" / "used").iterdir())


def _shard(root: Path, number: int) -> None:
    run_shard(sharded(root), Layout(root), number)


def test_a_stamp_alone_tells_time_and_items(tmp_path: Path) -> None:
    """Runs of a version that recorded no costs."""
    write_json(tmp_path / ".csr/stamps/generate@1.json", {"seconds": 2.5, "summary": {"prompts": 7}})
    [row] = stage_costs(Layout(tmp_path))
    assert (row["seconds"], row["items"], row["peak_mib"]) == (2.5, 7, None)
    (tmp_path / ".csr/stamps/generate@1.json").write_text("{")
    assert stage_costs(Layout(tmp_path))[0]["seconds"] is None


def test_what_a_run_took_in_a_line() -> None:
    def row(stage: str, seconds: float | None, cached: bool) -> dict[str, Any]:
        return {"stage": stage, "seconds": seconds, "cached": cached}

    made = [row("generate", 20.0, False), row("generate", 11.0, False), row("finetune", 38.0, False)]
    assert times_text(made) == "took 1:09: generate 0:31, finetune 0:38"
    assert times_text([*made, row("score", 5.0, True)]).endswith("finetune 0:38; 1 of 4 stages up to date")
    assert times_text([row("score", 5.0, True)]) == "all 1 stages were up to date"


def test_a_record_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "costs").write_text("a file is in the way, as a full disk would be")
    call = hungry("prepare", tmp_path, 1)
    assert not run_stage(call, Layout(tmp_path)).cached
    assert run_stage(call, Layout(tmp_path)).cached


@pytest.mark.skipif(find_spec("dvc") is None, reason="DVC is not installed: an environment of the method alone")
def test_dvc_does_not_see_the_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`dvc status` stays clean when a stage that is up to date is asked for again, which changes its record."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(render_params(preset_values("steady")))
    stage = "stages: {prepare: {cmd: 'true', outs: [{data/iter_1/prompts: {persist: true}}]}}\n"
    Path("dvc.yaml").write_text(stage)
    order = ["prepare", "--iteration", "1", "--set", "data.per_iteration=2"]
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "-q"], check=True)
    assert main(order) == 0
    subprocess.run([*dvc, "commit", "-f", "-q"], check=True)
    assert main(order) == 0
    assert stage_costs(Layout())[0]["cached"]
    told = subprocess.run([*dvc, "status"], check=True, capture_output=True, text=True).stdout
    assert "up to date" in told
