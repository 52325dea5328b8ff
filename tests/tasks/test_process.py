"""Stage processes: what their end means, and that none is left."""

import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from csr_core.errors import InputError, OutOfMemoryError
from csr_core.layout import Layout
from csr_core.params import preset_values, render_params
from csr_core.stages.__main__ import Order, main
from tasks import process

FEW = ("evaluate.splits.test.count=400", "evaluate.splits.shifted.count=400", "run.workers=1")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(render_params(preset_values("steady")))
    return tmp_path


@pytest.fixture(params=["forked", "spawned"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to start a process: the one for CPUs, and the one for GPUs."""
    if request.param == "spawned":
        monkeypatch.setattr(process, "_may_fork", lambda: False)
    return str(request.param)


def test_a_stage_is_carried_out_in_its_folder(folder: Path, either: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    process.run_process(Order("prepare", 1, overrides=("data.per_iteration=2",), root=Path("here")), folder)
    assert len(list((folder / "here" / "data" / "iter_1" / "prompts" / "images").glob("*.png"))) == 2


def test_refused_inputs_are_no_crash_and_the_reason_comes_along(
    folder: Path, either: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"^score@1 needs .*: run the stage that makes it first"):
        process.run_process(Order("score", 1), folder)
    assert "score@1 needs" not in capfd.readouterr().err  # told by whoever catches it, once


def test_a_killed_stage_is_told_as_memory(folder: Path, either: str) -> None:
    assert main(["prepare", "--iteration", "0", "--set", FEW[0], "--set", FEW[1]]) == 0
    failed: list[BaseException] = []
    thread = evaluating(folder, failed)
    [group] = wait_for_groups()
    os.kill(group, 9)
    thread.join(30)
    assert [type(error) for error in failed] == [OutOfMemoryError]
    assert not psutil.pid_exists(group)
    assert not Layout(folder).metrics(0).exists()


def test_when_the_flow_is_stopped_all_end_and_none_is_started(folder: Path) -> None:
    assert main(["prepare", "--iteration", "0", "--set", FEW[0], "--set", FEW[1]]) == 0
    failed: list[BaseException] = []
    threads = [evaluating(folder, failed) for _ in range(2)]
    wait_for_groups(2)
    try:
        process.end_all()
        for thread in threads:
            thread.join(30)
        assert len(failed) == 2
        with pytest.raises(RuntimeError, match="being stopped"):
            process.run_process(Order("prepare", 1), folder)
    finally:
        process.begin()


def evaluating(folder: Path, failed: list[BaseException]) -> threading.Thread:
    """Evaluate the base in a process, waited for by a thread that notes the error it ends with."""

    def evaluate() -> None:
        try:
            process.run_process(Order("evaluate", 0, overrides=FEW), folder)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=evaluate)
    thread.start()
    return thread


def wait_for_groups(count: int = 1) -> set[int]:
    deadline = time.monotonic() + 120
    while len(process._groups) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.5)  # so that it has begun
    return set(process._groups)
