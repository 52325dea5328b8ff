"""Prefect and DVC as a user starts them: the same work by either, kills, cancellation, two runs at once."""

import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import psutil
import pytest

from csr_core.layout import Layout
from csr_core.params import load_settings
from csr_core.records import SCORES, read_json, read_table
from tests.e2e.conftest import pairs
from tests.e2e.site import Site, command, free_port, kill, wait_for


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A checkout with its server and worker, in which the first deployment run has ended."""
    made = Site(tmp_path_factory.mktemp("site") / "checkout", free_port())
    try:
        made.serve()
        said = made.run("prefect", "deployment", "run", "csr/iterate", "--watch")
        assert "Completed" in said, said
        yield made
    finally:
        made.stop()


def cached(site: Site, flow_run: str) -> dict[str, str]:
    return {name: state for name, state in site.task_states(flow_run).items() if state == "Cached"}


def test_after_a_flow_dvc_has_nothing_to_do(site: Site) -> None:
    [run] = site.flow_runs()
    states = site.task_states(run["id"])
    # A shard that was tried again, as on a busy machine, may be found finished by its first attempt.
    assert set(states.values()) <= {"Completed", "Cached"}, states
    assert {"generate@1", "generate@1 shard 0 of 3", "score@1 shard 2 of 3", "finetune@1", "evaluate@1"} <= set(states)
    assert "up to date" in site.run("dvc", "status")
    assert "Running stage" not in site.run("dvc", "repro")
    artifacts = {one["key"] for one in site.api("artifacts/filter", {"limit": 200})}
    assert {"csr-metrics", "csr-pairs-1", "csr-records-1", "csr-costs", "generate-1", "finetune-1"} <= artifacts
    told = {one["key"]: one for one in site.api("artifacts/filter", {"limit": 200})}
    assert told["generate-1"]["data"] == 100
    assert re.search(r"12 prompts, .* log-likelihood a token -\d", told["generate-1"]["description"])
    assert "chosen > rejected" in told["finetune-1"]["description"]


def test_after_dvc_repro_the_flow_has_every_stage_cached(site: Site, tmp_path: Path) -> None:
    other = Site(tmp_path / "checkout", site.port)
    other.run("dvc", "repro")
    assert pairs(other.folder) == pairs(site.folder)
    assert (other.folder / "dvc.lock").read_text() == (site.folder / "dvc.lock").read_text()
    other.run("csr", "run")
    states = other.task_states(other.flow_runs()[0]["id"])
    assert set(states.values()) == {"Cached"}
    assert len(states) == 9  # prepare and evaluate of the base, seven stages
    assert "up to date" in other.run("dvc", "status")


def test_a_checkpoint_is_measured_by_the_flow_evaluate(site: Site) -> None:
    words = ("--param", "name=mine", "--param", "adapter=models/iter_1")
    said = site.run("prefect", "deployment", "run", "csr/evaluate", *words, "--watch")
    assert "Completed" in said, said
    own = read_json(Layout(site.folder / "evaluations" / "mine").metrics(0))["test"]
    iteration = read_json(Layout(site.folder).metrics(1))["test"]
    assert own["chair_i"]["value"] == iteration["chair_i"]["value"]
    assert "up to date" in site.run("dvc", "status")


def test_weights_are_compared_by_the_flow_ablate(site: Site) -> None:
    words = ("--param", "image_weights=[0.5]", "--param", "seeds=1", "--param", "iterations=1")
    said = site.run("prefect", "deployment", "run", "csr/ablate", *words, "--watch")
    assert "Completed" in said, said
    layout = Layout(site.folder / "ablation" / "weight-0.5" / "seed_0")
    rewards = [row for row in read_table(layout.scores(1), SCORES) if row["reward"] is not None]
    assert rewards
    for row in rewards:
        assert row["reward"] in (0.0, pytest.approx(0.5 * row["relevance"] + 0.5 * row["likelihood"]))  # 0: a repeat
    [table] = site.api("artifacts/filter", {"artifacts": {"key": {"any_": ["csr-ablation"]}}})
    assert "weight 0.5" in table["data"]


def test_a_second_run_is_cached_and_a_changed_output_is_made_again(site: Site) -> None:
    before = pairs(site.folder)
    (Layout(site.folder).preferences(1) / "preferences.parquet").write_bytes(b"changed")
    site.run("csr", "run")
    states = site.task_states(site.flow_runs()[0]["id"])
    assert {name for name, state in states.items() if state != "Cached"} == {"pair@1"}
    assert pairs(site.folder) == before


def test_killed_in_each_stage_the_next_run_goes_on(site: Site, tmp_path: Path) -> None:
    for stage in ("generate", "score", "finetune", "evaluate"):
        flow = start_csr(site, tmp_path)
        assert wait_for(lambda stage=stage: working(tmp_path, f"{stage}@1"), 120), stage
        flow.kill()
        flow.wait()
        assert wait_for(lambda: not site.stages(), 15), [command(p) for p in site.stages()]
    site.run("csr", "run", folder=tmp_path)
    states = site.task_states(site.flow_runs()[0]["id"])
    assert {"prepare@1", "generate@1", "score@1", "pair@1", "finetune@1"} <= {
        n for n, s in states.items() if s == "Cached"
    }
    assert pairs(tmp_path) == pairs(site.folder)
    assert statuses(tmp_path).count("KILLED") == 4


def test_finished_shards_are_not_made_again(site: Site, tmp_path: Path) -> None:
    flow = start_csr(site, tmp_path, "--set", "run.workers=1")
    assert wait_for(lambda: list(tmp_path.glob(".csr/unfinished/generate@1*/part-00000.json")), 120)
    flow.kill()
    flow.wait()
    [first] = tmp_path.glob(".csr/unfinished/generate@1*/part-00000.json")
    made = first.stat().st_mtime_ns
    assert wait_for(lambda: not site.stages(), 15)
    site.run("csr", "run", folder=tmp_path)
    states = site.task_states(site.flow_runs()[0]["id"])
    assert states["generate@1 shard 0 of 3"] == "Cached"
    assert (Layout(tmp_path).candidates(1) / "part-00000.json").stat().st_mtime_ns == made
    assert pairs(tmp_path) == pairs(site.folder)


def test_a_killed_worker_costs_nothing(site: Site) -> None:
    root = site.folder / "worker-killed"
    flow_run = site.deployment_run("--param", "root=worker-killed")
    assert wait_for(lambda: working(root, "generate@1"), 120)
    for worker in site.processes("prefect worker start"):
        kill(worker)
    # The flow's process lives on, or was ended with the worker; either way the next run finds what is done.
    assert wait_for(lambda: not site.processes(flow_run), 180)
    site.worker()
    site.run("prefect", "deployment", "run", "csr/iterate", "--param", "root=worker-killed", "--watch")
    assert pairs(root) == pairs(site.folder)
    assert load_settings(root / "params.yaml").iterations == 1  # for who looks at it with --root
    assert wait_for(lambda: not site.stages(), 15)


def test_cancelled_in_finetune_nothing_remains(site: Site) -> None:
    flow_run = site.deployment_run("--param", 'overrides=["finetune.epochs=2000"]')
    assert wait_for(lambda: working(site.folder, "finetune@1"), 120)
    time.sleep(2)  # into the training
    assert site.stages()
    site.run("prefect", "flow-run", "cancel", flow_run)
    assert wait_for(lambda: not site.processes(flow_run), 15), [command(p) for p in site.processes(flow_run)]
    assert wait_for(lambda: not site.stages(), 15)
    assert wait_for(lambda: site.state(flow_run) == "CANCELLED", 15)
    assert statuses(site.folder)[0] == "KILLED"
    assert "up to date" in site.run("dvc", "status")


def test_two_runs_at_once_do_the_work_once(site: Site, tmp_path: Path) -> None:
    first, second = (start_csr(site, tmp_path, log=f"{name}.log") for name in ("a", "b"))
    assert (first.wait(300), second.wait(300)) == (0, 0)
    said = "".join((tmp_path / f"{name}.log").read_text() for name in ("a", "b"))
    assert "another run works in this folder" in said
    for stage in ("generate@1", "score@1", "finetune@1", "evaluate@1", "evaluate@0"):
        assert len(re.findall(rf"{stage}: done in", said)) == 1, said
    assert pairs(tmp_path) == pairs(site.folder)


@pytest.mark.parametrize("runner", ["processes", "ray"])
def test_other_task_runners_make_the_same(site: Site, tmp_path: Path, runner: str) -> None:
    site.run("csr", "run", "--set", f"run.task_runner={runner}", folder=prepared(site, tmp_path))
    assert pairs(tmp_path) == pairs(site.folder)
    assert wait_for(lambda: not [p for p in site.processes() if command(p).startswith("ray")], 15)
    assert wait_for(lambda: not site.stages(), 15)


def test_a_killed_ray_worker_costs_at_most_its_shard(site: Site, tmp_path: Path) -> None:
    flow = start_csr(site, tmp_path, "--set", "run.task_runner=ray")
    assert wait_for(lambda: working(tmp_path, "generate@1") and ray_workers(site), 180)
    for worker in ray_workers(site):
        kill(worker)
    flow.wait(300)  # Ray may run the shard again by itself, or the flow fails
    site.run("csr", "run", "--set", "run.task_runner=ray", folder=tmp_path)
    assert pairs(tmp_path) == pairs(site.folder)
    assert wait_for(lambda: not site.stages(), 15)


def ray_workers(site: Site) -> list[psutil.Process]:
    """Ray's processes that hold a task now."""
    return [p for p in site.processes() if command(p).startswith("ray::") and "IDLE" not in command(p)]


def prepared(site: Site, folder: Path) -> Path:
    (folder / "params.yaml").write_text((site.folder / "params.yaml").read_text())
    return folder


def start_csr(site: Site, folder: Path, *words: str, log: str = "run.log") -> "subprocess.Popen[bytes]":
    """`csr run` in a folder of its own, with the site's settings and server."""
    with (prepared(site, folder) / log).open("ab") as out:
        return subprocess.Popen(["csr", "run", *words], cwd=folder, env=site.environment, stdout=out, stderr=out)


def working(root: Path, label: str) -> bool:
    """Whether the stage has begun and is not done."""
    return any((root / ".csr" / "unfinished").glob(f"{label}.*"))


def statuses(folder: Path) -> list[str]:
    """Status of each parent run in the folder's MLflow store, newest first."""
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("csr")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "", order_by=["attributes.start_time DESC"])
    return [run.info.status for run in found if "mlflow.parentRunId" not in run.data.tags]
