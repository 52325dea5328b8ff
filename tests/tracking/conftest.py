import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from csr_core.config import TrackingSettings
from tasks.run import Run
from tasks.store import open_store
from tasks.tracking import tracked
from tests.tracking.world import make_run, record


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with its tables, which take MLflow some seconds to make."""
    folder = tmp_path_factory.mktemp("database")
    open_store(TrackingSettings(experiment="of the tables"), folder)
    return folder / "mlruns" / "mlflow.db"


@pytest.fixture
def new_run(tmp_path: Path, database: Path) -> Callable[..., Run]:
    """A CSR run in a folder whose MLflow store is there, without the experiment."""

    def make(*overrides: str) -> Run:
        (tmp_path / "mlruns").mkdir()
        shutil.copy(database, tmp_path / "mlruns" / "mlflow.db")
        return make_run(tmp_path, *overrides)

    return make


def client_of(folder: Path) -> MlflowClient:
    uri = f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}"
    return MlflowClient(uri, uri)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, database: Path) -> tuple[MlflowClient, str, Run]:
    """Two iterations recorded: (client, id of the CSR run, the run). The first is better than the second."""
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "mlruns").mkdir()
    shutil.copy(database, folder / "mlruns" / "mlflow.db")
    run = make_run(folder, "iterations=2", "reward.image_weight=0.75")
    with tracked(run) as track:
        for iteration, chair in enumerate((0.4, 0.2, 0.3)):
            record(track, iteration, chair=chair)
    return client_of(folder), track.run_id, run
