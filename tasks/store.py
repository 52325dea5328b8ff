"""MLflow's store: opened once for a run, refused within seconds where it cannot be reached; numbers written to it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from csr_core.addresses import without_password
from csr_core.config import TrackingSettings
from csr_core.errors import SettingsError

METRICS_A_CALL = 1000  # MLflow's limit

# As MLflow itself does where the settings name no server; read once, since MLflow sets it to what it was told later.
SERVER_OF_ENVIRONMENT = os.environ.get("MLFLOW_TRACKING_URI")

# Long enough for a server that is busy, short enough that a wrong address is known before any GPU work.
OPENING = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


@dataclass(frozen=True)
class Store:
    """An open store: its client, its address, and the experiment that runs go to."""

    client: Any  # mlflow.MlflowClient
    uri: str
    experiment_id: str
    lock: FileLock  # held while something is looked up and, where it is missing, made

    @property
    def page(self) -> str | None:
        """Address of the experiment on the server's page, without any password; None without a server."""
        if not is_server(self.uri):
            return None
        return f"{without_password(self.uri).rstrip('/')}/#/experiments/{self.experiment_id}"


def open_store(settings: TrackingSettings, working_folder: Path) -> Store:
    """The store of the settings, by default below the working folder, with its experiment, made where there is none.

    Processes that open the same new store at once do it one after the other: MLflow's own set-up is not made for two.

    Raises:
        SettingsError: the server does not answer, the store cannot be used, or the experiment was deleted.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for each of some twenty runs
    import mlflow

    for name in ("alembic", "mlflow.store.db.utils"):  # a page of migrations on first use
        logging.getLogger(name).setLevel(logging.WARNING)
    folder, state = (working_folder / "mlruns").resolve(), working_folder / ".csr"
    address = settings.mlflow_uri or SERVER_OF_ENVIRONMENT
    uri = address or f"sqlite:///{folder / 'mlflow.db'}"
    if address is None:
        folder.mkdir(parents=True, exist_ok=True)
    state.mkdir(parents=True, exist_ok=True)
    lock = FileLock(state / "mlflow.lock")
    # Without its own location a direct client could not read what a server on this store wrote, nor the other way.
    location = None if is_server(uri) else (folder / "artifacts").as_uri()
    with lock, _environment(OPENING):
        try:
            mlflow.set_tracking_uri(uri)  # the registry's store looks runs up through it
            client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
            experiment = _experiment(client, settings.experiment, location)
        except Exception as error:
            raise _cannot_open(address, error) from error
    if experiment.lifecycle_stage != "active":
        raise SettingsError(
            f"tracking.experiment: {settings.experiment!r} was deleted in MLflow. Restore it with "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`, or set another name"
        )
    return Store(client, uri, experiment.experiment_id, lock)


def _experiment(client: Any, name: str, location: str | None) -> Any:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.get_experiment(client.create_experiment(name, artifact_location=location))
        except MlflowException:  # made meanwhile by another machine?
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    return found


def _cannot_open(named: str | None, error: Exception) -> SettingsError:
    reason = (str(error).splitlines() or [""])[0][:500]
    if named is None:
        return SettingsError(
            f"MLflow's store mlruns/mlflow.db cannot be opened ({reason}). Is the disk full, or the folder read-only? "
            "A damaged or newer database: move mlruns/ away, a new one is made"
        )
    address = without_password(named)
    reason = reason.replace(named, address)
    return SettingsError(
        f"tracking.mlflow_uri (or MLFLOW_TRACKING_URI) is {address}, and MLflow cannot be reached there ({reason}). "
        "Start the server (docs/mlflow.md), mend the address, or set it to null, which records under mlruns/"
    )


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def again_if_beaten(write: Callable[[], object]) -> None:
    """Call `write`, twice more where it fails. Of two runs that first write the same row (a dataset, an alias) at once
    MLflow refuses the one that comes too late, which finds the row there when it tries again."""
    from mlflow.exceptions import MlflowException

    for attempt in range(3):
        try:
            write()
            return
        except MlflowException:
            if attempt == 2:
                raise
            time.sleep(0.2 * (attempt + 1))


def log_metrics(client: Any, run_id: str, rows: Iterable[tuple[str, float, int]], model_id: str | None = None) -> None:
    """Write `(name, value, step)` rows to a run, many a call; `model_id` also shows them with that logged model."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [Metric(name, float(value), now, step, model_id=model_id) for name, value, step in rows]
    for start in range(0, len(metrics), METRICS_A_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_A_CALL])


def end_runs(client: Any, experiment_id: str, run_id: str, status: str) -> None:
    """End a CSR run and whatever of its children still runs, the children first. Runs that ended keep their status."""
    running = client.search_runs([experiment_id], f"tags.csr_run = '{run_id}' and attributes.status = 'RUNNING'")
    for child in running:
        client.set_terminated(child.info.run_id, status)
    if client.get_run(run_id).info.status == "RUNNING":
        client.set_terminated(run_id, status)
