"""After a flow, DVC knows what it made: status is clean, repro runs nothing, old versions come back."""

import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from tasks import versioning
from tasks.run import Run
from tasks.versioning import Versioning
from tests.versioning.projects import commit, dvc, make_outputs, names, project
from tests.versioning.projects import run as command


def record_all(made: Run, iterations: int = 1, text: str = "made") -> dict[str, str | None]:
    """What a flow does: each stage leaves its outputs, and they are recorded."""
    versions, recorded = Versioning(made), {}
    for k in range(iterations + 1):
        make_outputs(made.layout, k, text)
        recorded |= {versioning.stage_name(name, k): versions.record(name, k) for name in names(k)}
    return recorded


def test_after_recording_status_is_clean_and_repro_runs_nothing(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    recorded = record_all(project(tmp_path, iterations=2), iterations=2)
    assert capfd.readouterr() == ("", "")
    lock = yaml.safe_load((tmp_path / "dvc.lock").read_text())["stages"]
    assert recorded == {name: lock[name]["outs"][0]["md5"] for name in recorded}
    assert set(lock) == set(recorded)
    assert recorded["generate@1"] is not None
    assert recorded["generate@1"].endswith(".dir")
    assert "up to date" in dvc(tmp_path, "status")
    printed = dvc(tmp_path, "repro")
    assert printed.count("didn't change, skipping") == len(recorded)
    assert "Running" not in printed


def test_nothing_is_written_where_nothing_changed(tmp_path: Path) -> None:
    made = project(tmp_path)
    first = record_all(made)
    lock = (tmp_path / "dvc.lock").stat().st_mtime_ns
    started = time.monotonic()
    assert record_all(made) == first
    assert time.monotonic() - started < 5
    assert (tmp_path / "dvc.lock").stat().st_mtime_ns == lock
    command(tmp_path, "rm", "-rf", ".dvc/cache")  # what the cache lost is put there again
    assert record_all(made) == first
    assert "up to date" in dvc(tmp_path, "status")
    changed = record_all(made, text="made anew")
    assert changed["generate@1"] != first["generate@1"]
    assert "up to date" in dvc(tmp_path, "status")


def test_a_stage_made_again_is_recorded_where_any_output_differs(tmp_path: Path) -> None:
    """The same key and the same answers, its first output, but metrics that differ in their last digits."""
    made = project(tmp_path)
    record_all(made)
    result = {"key": "k", "outputs": {"answers": "1", "metrics": "1"}}
    Versioning(made).record("evaluate", 1, result)
    metrics = made.layout.metrics(1)
    metrics.write_text(metrics.read_text().replace("0.9", "0.90000001"))
    assert "changed" in dvc(tmp_path, "status")
    Versioning(made).record("evaluate", 1, {**result, "outputs": {"answers": "1", "metrics": "2"}})
    Versioning(made).record("guard", 1)  # reads them
    assert "up to date" in dvc(tmp_path, "status")


def test_a_run_with_other_settings_is_not_recorded(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = project(tmp_path)
    recorded = record_all(replace(made, overrides=("reward.image_weight=0.5",)))
    assert set(recorded.values()) == {None}
    assert not (tmp_path / "dvc.lock").exists()
    assert capsys.readouterr().err.count("DVC records nothing") == 1


def test_settings_that_decide_nothing_do_not_hinder(tmp_path: Path) -> None:
    made = project(tmp_path)
    overrides = ("tracking.experiment=another", "generate.batch_size=3")
    assert None not in record_all(replace(made, overrides=overrides)).values()
    assert "up to date" in dvc(tmp_path, "status")


def test_another_settings_file_is_not_taken_for_params_yaml(tmp_path: Path) -> None:
    made = project(tmp_path)
    other = tmp_path / "other.yaml"
    other.write_text((tmp_path / "params.yaml").read_text().replace("seed: 0", "seed: 1"))
    assert set(record_all(replace(made, params=other)).values()) == {None}


def test_a_folder_without_dvc_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = project(tmp_path)
    (tmp_path / "dvc.yaml").unlink()
    versions = Versioning(made)
    make_outputs(made.layout, 0)
    assert versions.record("prepare", 0) is None
    versions.push(0)
    assert capsys.readouterr() == ("", "")
    assert not (tmp_path / "dvc.lock").exists()


def test_outside_git_and_later_inside(tmp_path: Path) -> None:
    made = project(tmp_path, git=False)
    assert "not a git repository" in dvc(tmp_path, "status", check=False)
    assert None not in record_all(made).values()
    assert "up to date" in dvc(tmp_path, "status")
    assert "Running" not in dvc(tmp_path, "repro")
    command(tmp_path, "git", "init", "-q")
    record_all(made)
    commit(tmp_path, "one")
    (tmp_path / "params.yaml").write_text((tmp_path / "params.yaml").read_text().replace("seed: 0", "seed: 7"))
    changed = dvc(tmp_path, "params", "diff").splitlines()[1]
    assert changed.split() == ["params.yaml", "seed", "0", "7"]


def test_an_iteration_dvc_yaml_does_not_have_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = project(tmp_path, iterations=1)
    record_all(made)
    versions = Versioning(made)
    make_outputs(made.layout, 2)
    assert [versions.record(name, 2) for name in names(2)] == [None] * 7
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "iteration 2" in told[0]
    assert "python -m csr_core.dvcfile" in told[0]


def test_an_old_version_comes_back(tmp_path: Path) -> None:
    made = project(tmp_path)
    record_all(made, text="old")
    commit(tmp_path, "first")
    record_all(made, text="newer")
    commit(tmp_path, "second")
    dvc(tmp_path, "get", ".", "data/iter_1/preferences", "--rev", "first", "-o", "back")
    assert (tmp_path / "back" / "preferences.parquet").read_text() == "old 1"
    assert (made.layout.preferences(1) / "preferences.parquet").read_text() == "newer 1"
    rows = [line.split() for line in dvc(tmp_path, "metrics", "diff", "first").splitlines()]
    assert ["metrics/summary/iter_1.json", "iter_1.test.chair_i", "0.03", "0.05", "0.02"] in rows


def test_an_output_that_is_missing_is_told_and_stops_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = project(tmp_path)
    assert Versioning(made).record("prepare", 0) is None
    told = capsys.readouterr().err
    assert "could not record prepare@0" in told
    assert "data/splits" in told


def test_push_to_the_default_remote(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    folder, remote = tmp_path / "project", tmp_path / "remote"
    folder.mkdir()
    made = project(folder)
    recorded = record_all(made)
    versions = Versioning(made)
    versions.push(1)  # without a remote: nothing
    dvc(folder, "remote", "add", "-d", "store", str(remote))
    versions.push(1)
    assert capfd.readouterr() == ("", "")

    def stored(stage: str) -> bool:
        md5 = str(recorded[stage])
        return (remote / "files" / "md5" / md5[:2] / md5[2:]).is_file()

    assert [stored(f"{name}@1") for name in names(1)] == [True] * 7
    assert not stored("splits")
    versions.push(0)
    assert stored("splits")


def test_a_remote_that_fails_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    made = project(tmp_path)
    record_all(made)
    (tmp_path / "file").write_text("not a folder")
    dvc(tmp_path, "remote", "add", "-d", "store", str(tmp_path / "file" / "below"))
    Versioning(made).push(1)
    assert "DVC could not push iteration 1" in capsys.readouterr().err


HOLD = "import sys, time; from dvc.repo import Repo, lock_repo\nwith lock_repo(Repo('.')): print('held', flush=True); "


def test_waits_while_another_process_holds_the_lock(tmp_path: Path) -> None:
    made = project(tmp_path)
    make_outputs(made.layout, 0)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD + "time.sleep(5)"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert Versioning(made).record("prepare", 0) is not None


def test_gives_up_in_the_end(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    made = project(tmp_path)
    make_outputs(made.layout, 0)
    monkeypatch.setattr(versioning, "PATIENCE", 1.0)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD + "sys.stdin.read()"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert Versioning(made).record("prepare", 0) is None
        assert "another DVC process" in capsys.readouterr().err
    assert Versioning(made).record("prepare", 0) is not None


def test_six_at_once_lose_nothing(tmp_path: Path) -> None:
    made = project(tmp_path)
    for k in (0, 1):
        make_outputs(made.layout, k)
    for name in names(0):
        Versioning(made).record(name, 0)
    threads = [threading.Thread(target=Versioning(made).record, args=(name, 1)) for name in names(1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "up to date" in dvc(tmp_path, "status")
