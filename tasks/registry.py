"""Checkpoints in MLflow's model registry: by reference, each content once, with the aliases base, last and best."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from csr_core.errors import SettingsError
from tasks.store import Store, again_if_beaten

LOWER_IS_BETTER = ("chair_", "repeats")

Figures = Mapping[str, Any]  # {split: {name: {value, low, high, n}}}: a metrics file


@dataclass(frozen=True)
class Checkpoint:
    """What the registry keeps of a model: where it lies and its digest, never its weights."""

    path: str
    digest: str
    kind: str  # base, lora or merged
    iteration: int
    revision: str | None = None  # DVC's


@dataclass(frozen=True)
class Version:
    """A registered checkpoint; `new` where this call made it."""

    number: str
    model_id: str
    new: bool


def model_name(experiment: str) -> str:
    """Name of the experiment's registered model: `csr` for the experiment csr, else csr-NAME."""
    name = re.sub(r"[/:\\\"']", "-", experiment)
    return name if name.startswith("csr") else f"csr-{name}"


def register(store: Store, name: str, checkpoint: Checkpoint, run_id: str) -> Version:
    """The version of the registered model `name` with this very content; a new one where there is none.

    `run_id` is the run that made the checkpoint (of the base: that measured it).
    """
    with store.lock:
        found = store.client.search_model_versions(f"name = '{name}' and tags.sha256 = '{checkpoint.digest}'")
        if found:
            newest = max(found, key=lambda version: int(version.version))
            return Version(str(newest.version), newest.source.removeprefix("models:/"), new=False)
        return _make(store, name, checkpoint, run_id)


def _make(store: Store, name: str, checkpoint: Checkpoint, run_id: str) -> Version:
    import mlflow
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException

    facts = {"path": checkpoint.path, "sha256": checkpoint.digest, "iteration": str(checkpoint.iteration)}
    if checkpoint.revision:
        facts["dvc_revision"] = checkpoint.revision
    logged = mlflow.create_external_model(
        name="base" if checkpoint.iteration == 0 else f"iter_{checkpoint.iteration}",
        source_run_id=run_id,
        params=facts,
        model_type=checkpoint.kind,
        experiment_id=store.experiment_id,
    )
    store.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, checkpoint.iteration)])
    try:
        store.client.create_registered_model(name, description="Checkpoints of CSR, by path and digest; no weights.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    made = store.client.create_model_version(
        name,
        source=f"models:/{logged.model_id}",
        run_id=run_id,
        model_id=logged.model_id,
        tags={**facts, "kind": checkpoint.kind},
    )
    return Version(str(made.version), logged.model_id, new=True)


def set_alias(store: Store, name: str, alias: str, version: str) -> None:
    """Let `alias` of the registered model `name` point to `version`, even if another run sets it this very moment."""
    again_if_beaten(lambda: store.client.set_registered_model_alias(name, alias, version))


def best_iteration(figures: Mapping[int, Figures], split: str, name: str, passes: Callable[[int], bool]) -> int | None:
    """The iteration with the best `name` on `split`, the earlier of equals; None where it was never measured.

    `figures` are the metrics by iteration; `passes` tells of an iteration whether it may be the best. The
    base, 0, takes part and always passes: where every iteration made it worse, it is the best.

    Raises:
        SettingsError: there is no figure of that name.
    """
    for measured in figures.values():
        if name not in measured[split]:
            raise SettingsError(
                f"evaluate.best_by is {name!r}, which is not measured on the split {split!r}: "
                f"expected one of {', '.join(sorted(measured[split]))}"
            )
    sign = 1 if name.startswith(LOWER_IS_BETTER) else -1
    values = {k: measured[split][name]["value"] for k, measured in figures.items() if k == 0 or passes(k)}
    order = sorted((sign * value, k) for k, value in values.items() if value is not None)
    return order[0][1] if order else None
