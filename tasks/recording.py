"""What MLflow keeps of each stage: preferences as a dataset, training curves, metrics by iteration, checkpoints."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from csr_core.addresses import without_password
from csr_core.config import Settings
from csr_core.digests import digest_value
from csr_core.params import flatten
from csr_core.records import PREFERENCES, read_json, read_table
from csr_core.report import conclusion, plot_answers, plot_metrics
from csr_core.stages.guard import stopped
from csr_core.stages.models import policy_files
from tasks import figures
from tasks.registry import Checkpoint, best_iteration, model_name, register, set_alias
from tasks.store import again_if_beaten, log_metrics

if TYPE_CHECKING:
    from tasks.tracking import Child, Track

SMALL = 50_000_000  # bytes: a larger adapter is not copied into the store

# The settings one compares runs by; all of them are in the artifact params.yaml.
PARAMS = (
    "preset", "seed", "iterations", "model.path", "data.per_iteration",
    "generate.method", "generate.width", "generate.temperature", "generate.keep_by", "generate.max_sentences",
    "reward.model", "reward.image_weight", "reward.combine", "reward.likelihood",
    "pair.path_score", "pair.same_length_share", "pair.drop_closest",
    "finetune.beta", "finetune.likelihood_weight", "finetune.lora_rank", "finetune.lora_alpha",
    "finetune.learning_rate", "finetune.epochs", "finetune.batch_size", "finetune.accumulation", "finetune.carry",
)  # fmt: skip


def main_settings(settings: Settings) -> dict[str, str]:
    """The settings shown as params of a run, `section.key` by `section.key`."""
    flat = flatten(settings)
    return {name: "null" if flat[name] is None else str(flat[name]) for name in PARAMS}


def all_settings(settings: Settings) -> str:
    """The whole of the settings in force, overrides included, as YAML; a password in an address is taken out."""
    tree = settings.model_dump()
    if tree["tracking"]["mlflow_uri"]:
        tree["tracking"]["mlflow_uri"] = without_password(tree["tracking"]["mlflow_uri"])
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def record_preferences(track: Track, child: Child, made: dict[str, Any], revision: str | None) -> None:
    """The pairs as a dataset of the run and of its iteration, their numbers, and two pictures."""
    k, client = child.iteration, track.store.client
    folder = track.run.layout.preferences(k)
    summary = read_json(folder / "summary.json")
    track.datasets[k] = _dataset(track, k, summary, made["outputs"][str(folder)], revision)
    for run_id in (track.run_id, track.iteration_run(k)):
        again_if_beaten(partial(client.log_inputs, run_id, [track.datasets[k]]))
    numbers = {
        "pairs": summary["pairs"],
        "left_out": len(summary["left_out"]),
        **_margins(summary),
    }
    _by_iteration(track, k, {f"preferences/{name}": value for name, value in numbers.items()})
    client.log_artifact(track.run_id, str(folder / "summary.json"), f"preferences/iter_{k}")
    if not child.fresh:
        return
    pairs = read_table(folder, PREFERENCES)
    title = f"iteration {k}"
    if scored := [pair for pair in pairs if pair["margin"] is not None]:
        _picture(track, f"rewards_iter_{k}.png", lambda: plot_answers({title: scored}))
    _picture(track, f"pairs_iter_{k}.png", lambda: figures.some_pairs(pairs, track.run.folder, title))


def _margins(summary: dict[str, Any]) -> dict[str, float]:
    """None for pairs that were imported without scores."""
    margin = summary["diversity"]["margin"]
    return {f"margin_{name}": margin[name] for name in ("mean", "median")} if margin else {}


def _dataset(track: Track, k: int, summary: dict[str, Any], digest: str, revision: str | None) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    profile = {
        "num_rows": summary["pairs"],
        "prompts": summary["prompts"],
        "left_out": summary["left_out_by_reason"],
        **_margins(summary),
    }
    columns = [{"name": column.name, "type": str(column.type)} for column in PREFERENCES]
    dataset = Dataset(
        name=f"preferences iter_{k}",
        digest=digest[:36],  # the longest MLflow takes; the tag has all of it
        source_type="local",
        source=json.dumps({"uri": track.relative(track.run.layout.preferences(k))}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps(profile),
    )
    tags = {"mlflow.data.context": "training", "sha256": digest, **({"dvc_revision": revision} if revision else {})}
    return DatasetInput(dataset, [InputTag(name, value) for name, value in tags.items()])


def record_training(track: Track, child: Child, made: dict[str, Any], revision: str | None) -> None:
    """The curves of DPO on the stage's run, the mean of their ends by iteration, and the checkpoint."""
    k, client = child.iteration, track.store.client
    folder = track.run.layout.model(k)
    log_metrics(client, child.run_id, _curves(folder / "training.jsonl"))
    final = read_json(folder / "summary.json")["final"]
    _by_iteration(track, k, {f"training/{name.removeprefix('rewards/')}": value for name, value in final.items()})
    if k in track.datasets:
        again_if_beaten(partial(client.log_inputs, child.run_id, [track.datasets[k]]))
    settings = track.settings
    kind = "lora" if settings.finetune.carry == "adapter" else "merged"
    checkpoint = Checkpoint(track.relative(folder), made["outputs"][str(folder)], kind, k, revision)
    name = model_name(settings.tracking.experiment)
    version = track.versions[k] = register(track.store, name, checkpoint, child.run_id)
    # MLflow keeps "latest" to itself: the version with the highest number, whichever run looked at it last.
    set_alias(track.store, name, "last", version.number)
    if version.new and kind == "lora" and _bytes(folder) < SMALL:
        client.log_artifacts(child.run_id, str(folder), "adapter")
        client.set_model_version_tag(name, version.number, "adapter", f"runs:/{child.run_id}/adapter")


def _curves(log: Path) -> Iterator[tuple[str, float, int]]:
    with log.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            step = int(row.pop("step"))
            for name, value in row.items():
                if isinstance(value, int | float) and not isinstance(value, bool):
                    yield name, value, step


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def record_metrics(track: Track, child: Child) -> None:
    """The benchmarks of a model by iteration, with their intervals and curves; the base's version.

    Raises:
        SettingsError: `evaluate.best_by` names a figure that was not measured: told once the base is, before training.
    """
    k, client = child.iteration, track.store.client
    path = track.run.layout.metrics(k)
    measured = track.measured[k] = read_json(path)
    settings = track.settings
    name = model_name(settings.tracking.experiment)
    split = next(iter({**settings.evaluate.splits, **settings.evaluate.benchmarks}))
    best_iteration(track.measured, split, settings.evaluate.best_by, lambda k: True)
    if k == 0:
        track.versions[0] = register(track.store, name, _base(track), child.run_id)
        set_alias(track.store, name, "base", track.versions[0].number)
    version = track.versions.get(k)
    values = dict(_flat(measured))
    _by_iteration(track, k, values, version.model_id if version else None)
    client.log_artifact(track.run_id, str(path), "metrics")
    name_best(track)
    if k > 0 and sorted(track.measured) == list(range(len(track.measured))):
        so_far = [track.measured[i] for i in range(len(track.measured))]
        for held_out in (
            settings.evaluate.splits if child.fresh else ()
        ):  # a benchmark has other figures than its curves
            _picture(track, f"metrics_{held_out}.png", partial(plot_metrics, {"run": so_far}, held_out))
        _summary(track, [{split: figures_of[split]} for figures_of in so_far])


def record_guards(track: Track, child: Child) -> None:
    """What the guards saw, as numbers by iteration and as tags; an iteration that they stopped is marked.

    The best iteration is named now: one that is not judged, or was stopped, never is.
    """
    k, client, layout = child.iteration, track.store.client, track.run.layout
    found = read_json(layout.guards(k))
    _by_iteration(track, k, {f"guards/{one['guard']}": one["value"] for one in found if one["value"] is not None})
    fired = [one["guard"] for one in found if one["fired"]]
    for run_id in (track.iteration_run(k), child.run_id):
        client.set_tag(run_id, "guards_fired", ", ".join(fired) or "none")
        client.set_tag(run_id, "stopped", str(stopped(k, layout)).lower())
        text = "\n\n".join(f"{'**' + one['guard'] + '**: ' if one['fired'] else ''}{one['sentence']}" for one in found)
        client.set_tag(run_id, "mlflow.note.content", text)
    client.log_artifact(track.run_id, str(layout.guards(k)), "guards")
    name_best(track)


def name_best(track: Track) -> None:
    """Let the alias `best` point to the best of the iterations that were judged and not stopped, or to the base."""
    settings, layout = track.settings, track.run.layout
    name = model_name(settings.tracking.experiment)
    split = next(iter({**settings.evaluate.splits, **settings.evaluate.benchmarks}))
    best = best_iteration(
        track.measured,
        split,
        settings.evaluate.best_by,
        lambda k: layout.verdict(k).is_file() and not stopped(k, layout),
    )
    if best in track.versions:
        set_alias(track.store, name, "best", track.versions[best].number)
        track.store.client.set_tag(track.run_id, "best_iteration", str(best))


def _flat(measured: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """`test/chair_i`, `uncertainty/test/chair_i_low`, `uncertainty/test/chair_i_high`, ...: what was computed.

    With a beginning of their own the bounds stand apart, and last: the page sorts by name.
    """
    for split, intervals in measured.items():
        for name, interval in intervals.items():
            told = {"value": f"{split}/{name}"} | {end: f"uncertainty/{split}/{name}_{end}" for end in ("low", "high")}
            for key, metric in told.items():
                if interval[key] is not None:
                    yield metric, interval[key]


def _base(track: Track) -> Checkpoint:
    settings = track.settings.model
    files = policy_files(settings)
    # A hub name without files here stands for itself, as in the keys of the stages.
    digest = track.run.digests(track.run.call("evaluate", 0)).path(files[0]) if files else None
    return Checkpoint(settings.path, digest or digest_value(settings.path), "base", 0)


def _summary(track: Track, so_far: list[dict[str, Any]]) -> None:
    first, last = so_far[0], so_far[-1]
    told = all(i["value"] is not None for m in (first, last) for values in m.values() for i in values.values())
    if told and (sentence := conclusion(so_far)):
        track.store.client.set_tag(track.run_id, "mlflow.note.content", sentence)


def _by_iteration(track: Track, k: int, values: dict[str, float], model_id: str | None = None) -> None:
    """Numbers of an iteration: on the CSR run, where steps are iterations, and on the iteration's own run."""
    rows = [(name, value, k) for name, value in values.items()]
    log_metrics(track.store.client, track.run_id, rows)
    log_metrics(track.store.client, track.iteration_run(k), rows, model_id)


def _picture(track: Track, name: str, draw: Callable[[], bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        try:
            file.write_bytes(draw())
        except Exception:
            # Hours of work must not end over a picture that some text or picture of the data breaks.
            logging.getLogger(__name__).warning("figures/%s could not be drawn", name, exc_info=True)
            return
        track.store.client.log_artifact(track.run_id, str(file), "figures")
