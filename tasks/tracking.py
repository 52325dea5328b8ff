"""MLflow: one parent run for a CSR run, its metrics by iteration, and a child for each fine-tuning."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from csr_core.params import flatten
from csr_core.records import read_json
from tasks.run import Run


class Track:
    """Records what each stage made in the parent run; `step` is the iteration, so that the page draws the curves."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def metrics(self, iteration: int, made: dict[str, Any]) -> None:
        import mlflow

        for split, values in read_json(self.run.layout.metrics(iteration)).items():
            for name, interval in values.items():
                found = {name: interval["value"], f"{name}_low": interval["low"], f"{name}_high": interval["high"]}
                for key, value in found.items():
                    if value is not None:
                        mlflow.log_metric(f"{split}/{key}", value, step=iteration)
        mlflow.log_artifact(str(self.run.layout.metrics(iteration)), "metrics")

    def preferences(self, iteration: int, made: dict[str, Any]) -> None:
        import mlflow

        folder = self.run.layout.preferences(iteration)
        mlflow.set_tag(f"preferences_{iteration}", made["outputs"][str(folder)])
        mlflow.log_artifact(str(folder / "summary.json"), f"preferences/iter_{iteration}")

    def training(self, iteration: int, made: dict[str, Any]) -> None:
        import json

        import mlflow

        curve = self.run.layout.model(iteration) / "training.jsonl"
        with mlflow.start_run(run_name=f"finetune@{iteration}", nested=True):
            mlflow.set_tag("model", made["outputs"][str(self.run.layout.model(iteration))])
            for line in curve.read_text("utf-8").splitlines():
                row = json.loads(line)
                step = int(row.pop("step"))
                numbers = {name: value for name, value in row.items() if isinstance(value, int | float)}
                mlflow.log_metrics(numbers, step=step)


@contextmanager
def tracked(run: Run) -> Iterator[Track]:
    """An MLflow run around a CSR run; ends FAILED where the flow does."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    settings = run.settings
    _use_store(settings.tracking.mlflow_uri, settings.tracking.experiment, run.layout.root)
    with mlflow.start_run(run_name=f"csr {settings.preset} seed {settings.seed}"):
        mlflow.log_params({key: value for key, value in flatten(settings).items() if value is not None})
        yield Track(run)


def _use_store(uri: str | None, experiment: str, root: Path) -> None:
    """Point MLflow at its store: by default sqlite and artifacts under `mlruns/` of the run's folder."""
    import mlflow

    folder = (root / "mlruns").resolve()
    mlflow.set_tracking_uri(uri or f"sqlite:///{folder / 'mlflow.db'}")
    if uri is None:
        folder.mkdir(parents=True, exist_ok=True)
    if uri is None and mlflow.get_experiment_by_name(experiment) is None:
        # Without its own location a direct client could not read what the server wrote, nor the server what it wrote.
        mlflow.create_experiment(experiment, artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment(experiment)
