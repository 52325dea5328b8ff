"""A server by setting: used where it answers, refused in words where it does not."""

import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow import MlflowClient

from csr_core.addresses import without_password
from csr_core.errors import SettingsError
from tasks.recording import all_settings
from tasks.run import Run
from tasks.tracking import tracked
from tests.tracking.conftest import client_of
from tests.tracking.world import made, make_run, record


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def server(tmp_path: Path, database: Path) -> Iterator[str]:
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(tmp_path / "served")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(address, process)
        yield address
    finally:
        process.terminate()
        process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the MLflow server did not start")


def test_a_server_takes_the_run_with_its_files_and_models(server: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "work", f"tracking.mlflow_uri={server}", "tracking.experiment=served")
    with tracked(run) as track:
        record(track, 0)
        record(track, 1)
        with track.stage("prepare", 2) as child:
            assert track.url(child) == f"{track.store.page}/runs/{child.run_id}?workflowType=machine_learning"
    page = f"{server}/#/experiments/{track.store.experiment_id}/runs/{track.run_id}"
    assert track.url() == f"{page}?workflowType=machine_learning"
    client = MlflowClient(server, server)
    assert client.get_run(track.run_id).info.status == "FINISHED"
    assert {"params.yaml", "figures", "metrics"} <= {file.path for file in client.list_artifacts(track.run_id)}
    assert client.get_model_version_by_alias("csr-served", "latest").tags["iteration"] == "1"
    assert not (tmp_path / "work" / "mlruns").exists()


def test_a_server_that_is_not_there_is_one_error_within_seconds(tmp_path: Path) -> None:
    uri = f"http://ann:secret@127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(SettingsError, match=r"tracking.mlflow_uri .* is http://127") as refused:
        tracked(make_run(tmp_path, f"tracking.mlflow_uri={uri}")).__enter__()
    assert time.monotonic() - started < 15
    assert "secret" not in str(refused.value)


def test_a_deleted_experiment_is_told(new_run: Callable[..., Run], tmp_path: Path) -> None:
    run = new_run()
    with tracked(run) as track:
        assert track.url() is None
    client_of(tmp_path).delete_experiment(track.store.experiment_id)
    with pytest.raises(SettingsError, match="was deleted in MLflow"):
        tracked(run).__enter__()


def test_stages_may_be_recorded_by_several_threads(new_run: Callable[..., Run], tmp_path: Path) -> None:
    with tracked(new_run()) as track:

        def one(stage: str) -> None:
            with track.stage(stage, 1) as child:
                child.finished(made(track.run, stage, 1), None)

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(one, ["prepare", "generate", "score"] * 3))
    found = client_of(tmp_path).search_runs([track.store.experiment_id])
    assert sorted(run.info.run_name for run in found).count("iteration 1") == 1
    assert len(found) == 2 + 9


def test_passwords_are_neither_shown_nor_stored(tmp_path: Path) -> None:
    assert without_password("https://ann:secret@host:5000/base?token=x") == "https://host:5000/base"
    assert without_password("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"
    settings = make_run(tmp_path, "tracking.mlflow_uri=http://ann:secret@host:5000").settings
    assert "host:5000" in all_settings(settings)
    assert "secret" not in all_settings(settings)
