"""`csr run` end to end: what it leaves, what a second run does, what a kill costs, what must not matter."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from csr_core.digests import Digests
from csr_core.layout import Layout
from csr_core.loop import iterate
from csr_core.records import CANDIDATES, SCORES, read_json, read_table
from tests.e2e.conftest import SMALL, csr, pairs, sets, small_settings
from tests.e2e.site import wait_for


def test_a_run_leaves_every_file_in_its_form(finished: Path) -> None:
    layout = Layout(finished)
    candidates = read_table(layout.candidates(1), CANDIDATES)
    scores = read_table(layout.scores(1), SCORES)
    assert len(candidates) == len(scores) > 12
    assert [row["node"] for row in candidates] == [row["node"] for row in scores]
    assert pairs(finished)
    assert (layout.model(1) / "adapter_config.json").is_file()
    for k in (0, 1):
        metrics = read_json(layout.metrics(k))
        assert set(metrics) == {"test", "shifted"}
        for values in metrics.values():
            for name in ("chair_i", "chair_s", "recall", "words", "pope_accuracy", "pope_f1", "pope_yes_ratio"):
                assert values[name]["low"] <= values[name]["value"] <= values[name]["high"]
                assert values[name]["n"] > 0


def test_mlflow_has_the_metrics_by_iteration(finished: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{finished / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("csr")
    assert experiment is not None
    parents = client.search_runs([experiment.experiment_id], "tags.mlflow.parentRunId IS NULL")
    history = client.get_metric_history(parents[-1].info.run_id, "test/chair_i")
    assert [point.step for point in history] == [0, 1]
    assert history[1].value == pytest.approx(read_json(Layout(finished).metrics(1))["test"]["chair_i"]["value"])


def test_a_second_run_does_nothing_and_says_the_same(finished: Path) -> None:
    made = {path: path.stat().st_mtime_ns for path in (finished / "data").rglob("*") if path.is_file()}
    done = csr(finished, "run", *sets(SMALL))
    assert "iteration 1" in done.stdout
    assert "all 9 stages were up to date" in done.stdout
    for line in ("prepare@0", "evaluate@0", "generate@1", "finetune@1", "guard@1"):
        assert re.search(rf"^{line}: up to date", done.stdout, re.MULTILINE)
    assert "\r" not in done.stderr
    assert made == {path: path.stat().st_mtime_ns for path in (finished / "data").rglob("*") if path.is_file()}
    assert "up to date" in csr(finished, "stage", "generate", "--iteration", "1", *sets(SMALL)).stdout


def test_a_deleted_output_is_made_again(finished: Path) -> None:
    before = pairs(finished)
    (Layout(finished).preferences(1) / "preferences.parquet").unlink()
    csr(finished, "run", *sets(SMALL))
    assert pairs(finished) == before


def test_report_is_one_file_with_the_table(finished: Path) -> None:
    done = csr(finished, "report")
    page = (finished / "reports" / "report.html").read_text()
    assert "CHAIR_i" in done.stdout
    assert "iteration 1" in page
    named = page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")  # which is the name of a language
    assert "http" not in named


@pytest.mark.parametrize("stage", ["generate", "score", "finetune", "evaluate"])
def test_killed_in_any_stage_the_next_run_ends_the_same(finished: Path, tmp_path: Path, stage: str) -> None:
    folder = tmp_path / "again"
    shutil.copytree(finished, folder)
    layout = Layout(folder)
    made = {"generate": layout.candidates, "score": layout.scores, "finetune": layout.model, "evaluate": layout.answers}
    shutil.rmtree(made[stage](1))
    assert kill_when_working(folder, stage), "the stage ended before it could be killed"
    csr(folder, "stage", stage, "--iteration", "1", *sets(SMALL))
    if stage == "generate":  # what was killed decides the pairs: make them from it
        for name in ("score", "pair"):
            shutil.rmtree(layout.scores(1) if name == "score" else layout.preferences(1))
            csr(folder, "stage", name, "--iteration", "1", *sets(SMALL))
    assert pairs(folder) == pairs(finished)
    undisturbed = finished / made[stage](1).relative_to(folder)
    assert Digests().path(made[stage](1)) == Digests().path(undisturbed)


def kill_when_working(folder: Path, stage: str) -> bool:
    """Start the stage in its own process group and kill -9 it once it has begun to write; False: it was too fast."""
    command = [sys.executable, "-m", "csr_core.stages", stage, "--iteration", "1", *sets(SMALL)]
    process = subprocess.Popen(command, cwd=folder, start_new_session=True)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(path.is_dir() for path in (folder / ".csr" / "unfinished").glob(f"{stage}@*")):
            time.sleep(1)  # some work, so that there is something to go on with
            break
        time.sleep(0.01)
    killed = process.poll() is None
    if killed:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return killed


def test_a_killed_run_leaves_no_temporary_server(tmp_path: Path) -> None:
    csr(tmp_path, "init", "--preset", "steady")
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / ".prefect"), "CSR_TEST_MARK": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-m", "flows.cli", "run", *sets(SMALL)], cwd=tmp_path, env=environment)
    assert wait_for(lambda: any((tmp_path / ".csr" / "unfinished").glob("evaluate@0*")), 240)
    process.kill()
    process.wait()
    assert wait_for(lambda: not marked(tmp_path), 20), [one.cmdline() for one in marked(tmp_path)]


def marked(folder: Path) -> list[psutil.Process]:
    """Processes that were started with this mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("CSR_TEST_MARK") == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.parametrize(
    "changes",
    [
        ["generate.batch_size=1", "reward.batch_size=1", "evaluate.batch_size=1"],
        ["generate.shard_size=5"],
        ["run.workers=2"],
    ],
    ids=["batch", "shard", "workers"],
)
def test_batch_shards_and_workers_do_not_change_the_pairs(finished: Path, tmp_path: Path, changes: list[str]) -> None:
    from csr_core.stages.plan import plan
    from csr_core.stages.runner import run_stage

    settings, layout = small_settings(tmp_path, *changes), Layout(tmp_path)
    for name in ("prepare", "generate", "score", "pair"):
        run_stage(plan(name, 1, settings, layout), layout)
    assert pairs(tmp_path) == pairs(finished)


def test_the_plain_loop_makes_the_same_as_the_flow(finished: Path, tmp_path: Path) -> None:
    iterate(small_settings(tmp_path), Layout(tmp_path))
    assert pairs(tmp_path) == pairs(finished)
    ours, theirs = (read_json(Layout(root).metrics(1))["test"] for root in (tmp_path, finished))
    assert {name: value["value"] for name, value in ours.items()} == pytest.approx(
        {name: value["value"] for name, value in theirs.items()}, abs=0.02, nan_ok=True
    )
