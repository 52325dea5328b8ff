"""MLflow: a run for each CSR run, below it one for each iteration, and below that one for each stage.

Runs are named by id everywhere, never taken from MLflow's "active run": stages may be recorded by several threads.
What is recorded of each stage stands in `tasks/recording.py`.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks.recording import (
    all_settings,
    main_settings,
    record_guards,
    record_metrics,
    record_preferences,
    record_training,
)
from tasks.registry import Version
from tasks.run import Run
from tasks.store import Store, end_runs, log_metrics, open_store
from tasks.watchdog import watched


@contextmanager
def tracked(run: Run) -> Iterator[Track]:
    """Record a CSR run in MLflow while the block runs.

    The run ends FINISHED after the block, FAILED where an error leaves it, KILLED where the block was interrupted or
    the process was terminated or killed; children that still run end with it and like it.

    Raises:
        SettingsError: the store cannot be reached or used.
    """
    settings = run.settings
    store = open_store(settings.tracking, run.folder)
    here = (run.folder / run.layout.root).resolve() == run.folder.resolve()
    place = "" if here else f"{run.layout.root}: "  # first: the list of runs cuts long names off
    track = Track(run, store, _start(store, f"{place}csr {settings.preset} seed {settings.seed}", run))
    status = "FINISHED"
    with watched(store.uri, store.experiment_id, track.run_id):
        try:
            yield track
        except BaseException as error:
            status = status_after(error)
            raise
        finally:
            end_runs(store.client, store.experiment_id, track.run_id, status)


def status_after(error: BaseException) -> str:
    """FAILED after an error; KILLED after what is none: Ctrl-C, exit on SIGTERM, Prefect's termination."""
    failed = isinstance(error, Exception) and type(error).__name__ != "CancelledRun"
    return "FAILED" if failed else "KILLED"


def _start(store: Store, name: str, run: Run) -> str:
    from mlflow.tracking.context.registry import resolve_tags

    tags = resolve_tags({"mlflow.source.name": "csr", "mlflow.source.type": "LOCAL"})
    run_id: str = store.client.create_run(store.experiment_id, run_name=name, tags=tags).info.run_id
    _log_settings(store, run_id, main_settings(run.settings))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "params.yaml")
        file.write_text(all_settings(run.settings), "utf-8")
        store.client.log_artifact(run_id, str(file))
    return run_id


def _log_settings(store: Store, run_id: str, settings: dict[str, str]) -> None:
    from mlflow.entities import Param

    store.client.log_batch(run_id, params=[Param(name, value) for name, value in settings.items()])


class Track:
    """The record of one CSR run. Numbers by iteration are on it with step = iteration, so that the page draws curves.

    `measured`, `datasets` and `versions` hold, by iteration, what this run has recorded so far.
    """

    def __init__(self, run: Run, store: Store, run_id: str) -> None:
        self.run, self.store, self.run_id = run, store, run_id
        self.settings = run.settings
        self.measured: dict[int, dict[str, Any]] = {}
        self.datasets: dict[int, Any] = {}
        self.versions: dict[int, Version] = {}
        self._iterations: dict[int, str] = {}
        self._lock = threading.Lock()

    def keep_page(self, page: Path) -> None:
        """The report among the run's artifacts, where MLflow's page shows it."""
        self.store.client.log_artifact(self.run_id, str(page))

    @contextmanager
    def stage(self, name: str, iteration: int) -> Iterator[Child]:
        """A run for the stage while the block runs; an exception that leaves the block ends it FAILED or KILLED."""
        tags = {"stage": name, "iteration": str(iteration)}
        child = Child(self, name, iteration, self._child(f"{name}@{iteration}", self.iteration_run(iteration), tags))
        client = self.store.client
        try:
            yield child
        except BaseException as error:
            client.set_tag(child.run_id, "error", type(error).__name__)
            client.set_terminated(child.run_id, status_after(error))
            raise
        client.set_terminated(child.run_id, "FINISHED")
        if name == ("guard" if iteration else "evaluate"):  # an iteration's last stage
            client.set_terminated(self.iteration_run(iteration), "FINISHED")

    def iteration_run(self, iteration: int) -> str:
        """Id of the iteration's run, started at its first stage."""
        with self._lock:
            if iteration not in self._iterations:
                name = f"iteration {iteration}" if iteration else "iteration 0 (base)"
                run_id = self._child(name, self.run_id, {"iteration": str(iteration)})
                # With the settings on it, iterations of several runs can be compared among each other.
                _log_settings(self.store, run_id, {"iteration": str(iteration), **main_settings(self.settings)})
                self._iterations[iteration] = run_id
            return self._iterations[iteration]

    def _child(self, name: str, parent: str, tags: dict[str, str]) -> str:
        tags = {"mlflow.parentRunId": parent, "csr_run": self.run_id, **tags}
        run_id: str = self.store.client.create_run(self.store.experiment_id, run_name=name, tags=tags).info.run_id
        return run_id

    def url(self, child: Child | None = None) -> str | None:
        """Address of the run (or a stage's) on the MLflow server; None where the store is a file."""
        page = self.store.page
        # Without the parameter MLflow opens its page for language model applications, which is empty here.
        return page and f"{page}/runs/{child.run_id if child else self.run_id}?workflowType=machine_learning"

    def relative(self, path: Path) -> str:
        """The path from the run's folder, where it lies below it."""
        root = self.run.layout.root
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


@dataclass
class Child:
    """The run of one stage of one iteration. `fresh`: no earlier run of the experiment recorded the same content."""

    track: Track
    stage: str
    iteration: int
    run_id: str
    fresh: bool = True

    def finished(self, made: dict[str, Any], revision: str | None) -> None:
        """Record what the stage made.

        Args:
            made: `key`, `outputs` ({path: digest}), `left_out`, `seconds` and `cached` of the stage.
            revision: DVC's digest of the stage's first output; None where DVC does not record.

        Raises:
            SettingsError: `evaluate.best_by` names a figure that was not measured.
        """
        from mlflow.entities import RunTag

        outputs = {self.track.relative(Path(path)): digest for path, digest in made["outputs"].items()}
        tags = {"key": made["key"], "cached": str(made["cached"]).lower(), "outputs": json.dumps(outputs)}
        if revision:
            tags["dvc_revision"] = revision
        client = self.track.store.client
        if made["cached"]:  # its pictures need not be drawn again
            same = f"tags.key = '{made['key']}'"
            self.fresh = not client.search_runs([self.track.store.experiment_id], same, max_results=1)
        client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in tags.items()])
        numbers = {"seconds": made["seconds"], "left_out": made["left_out"]}
        log_metrics(client, self.run_id, [(name, value, self.iteration) for name, value in numbers.items()])
        log_metrics(client, self.track.run_id, [(f"seconds/{self.stage}", made["seconds"], self.iteration)])
        if self.stage == "pair":
            record_preferences(self.track, self, made, revision)
        elif self.stage == "finetune":
            record_training(self.track, self, made, revision)
        elif self.stage == "evaluate":
            record_metrics(self.track, self)
        elif self.stage == "guard":
            record_guards(self.track, self)
