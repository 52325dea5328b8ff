"""What two recorded iterations look like in MLflow."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from csr_core.digests import Digests
from csr_core.layout import Layout
from tasks.run import Run
from tasks.tracking import tracked
from tests.tracking.conftest import client_of
from tests.tracking.world import PAIRS, STAGES, STEPS

Recorded = tuple[MlflowClient, str, Run]


def runs(recorded: Recorded) -> dict[str, Any]:
    client, run_id, _ = recorded
    experiment = client.get_run(run_id).info.experiment_id
    return {run.info.run_name: run for run in client.search_runs([experiment])}


def history(recorded: Recorded, name: str, run: str | None = None) -> list[tuple[int, float]]:
    client, run_id, _ = recorded
    run_id = runs(recorded)[run].info.run_id if run else run_id
    return [(metric.step, pytest.approx(metric.value)) for metric in client.get_metric_history(run_id, name)]


def test_iterations_lie_below_the_run_and_stages_below_iterations(recorded: Recorded) -> None:
    found = runs(recorded)
    parent = {name: run.data.tags.get("mlflow.parentRunId") for name, run in found.items()}
    ids = {name: run.info.run_id for name, run in found.items()}
    top = "csr steady seed 0"
    expected = {top: None, "iteration 0 (base)": ids[top], "iteration 1": ids[top], "iteration 2": ids[top]}
    expected |= {f"{stage}@0": ids["iteration 0 (base)"] for stage in ("prepare", "evaluate")}
    for k in (1, 2):
        for stage in STAGES:
            expected[f"{stage}@{k}"] = ids[f"iteration {k}"]
    assert parent == expected
    assert {run.info.status for run in found.values()} == {"FINISHED"}


def test_benchmarks_are_curves_of_the_run_and_figures_of_each_iteration(recorded: Recorded) -> None:
    assert history(recorded, "test/chair_i") == [(0, 0.4), (1, 0.2), (2, 0.3)]
    assert history(recorded, "uncertainty/test/chair_i_low") == [(0, 0.35), (1, 0.15), (2, 0.25)]
    assert history(recorded, "shifted/chair_i") == []  # not computed
    assert history(recorded, "uncertainty/test/recall_high", "iteration 2") == [(2, 0.75)]
    assert history(recorded, "preferences/pairs") == [(1, PAIRS), (2, PAIRS)]
    assert history(recorded, "seconds/finetune") == [(1, 1.5), (2, 1.5)]


def test_training_curves_are_on_the_stage_by_step(recorded: Recorded) -> None:
    assert history(recorded, "rewards/margins", "finetune@2") == [(n, 0.1 * n) for n in range(1, STEPS + 1)]
    assert history(recorded, "training/margins") == [(1, 0.5), (2, 0.5)]
    assert set(runs(recorded)["finetune@1"].data.metrics) == {
        *("loss", "rewards/margins", "logps/chosen", "seconds", "left_out")
    }


def test_settings_are_few_and_the_file_has_all_in_force(recorded: Recorded, tmp_path: Path) -> None:
    client, run_id, run = recorded
    params = client.get_run(run_id).data.params
    assert 15 <= len(params) <= 30
    assert params["reward.image_weight"] == "0.75"
    file = yaml.safe_load(Path(client.download_artifacts(run_id, "params.yaml", str(tmp_path))).read_text())
    assert file == run.settings.model_dump()


def test_preferences_are_an_input_with_digest_and_revision(recorded: Recorded) -> None:
    _, _, run = recorded
    for name in ("csr steady seed 0", "iteration 2", "finetune@2"):
        inputs = runs(recorded)[name].inputs.dataset_inputs
        found = next(item for item in inputs if item.dataset.name == "preferences iter_2")
        tags = {tag.key: tag.value for tag in found.tags}
        assert tags["sha256"] == Digests().path(run.layout.preferences(2))
        assert tags["sha256"].startswith(found.dataset.digest)
        assert tags["dvc_revision"] == "md5 of pair"
        assert found.dataset.source == '{"uri": "data/iter_2/preferences"}'
        assert f'"num_rows": {PAIRS}' in found.dataset.profile


def test_aliases_point_at_base_last_and_best(recorded: Recorded) -> None:
    client, run_id, run = recorded
    assert {v.tags["iteration"] for v in client.search_model_versions("name = 'csr'")} == {"0", "1", "2"}
    aliases = {alias: client.get_model_version_by_alias("csr", alias) for alias in ("base", "last", "latest", "best")}
    assert {alias: version.tags["iteration"] for alias, version in aliases.items()} == {
        "base": "0",
        "last": "2",
        "latest": "2",  # MLflow's own: the highest number
        "best": "1",  # chair_i: lower is better
    }
    assert aliases["best"].tags["path"] == "models/iter_1"
    assert aliases["best"].tags["sha256"] == Digests().path(run.layout.model(1))
    assert client.get_run(run_id).data.tags["best_iteration"] == "1"


def test_no_weights_are_copied_but_a_small_adapter(recorded: Recorded, tmp_path: Path) -> None:
    client, _, run = recorded
    version = client.get_model_version_by_alias("csr", "latest")
    weights = list((run.layout.root / "mlruns").rglob("*.safetensors"))
    assert len(weights) == 2  # one an iteration
    _, finetune, folder = version.tags["adapter"].removeprefix("runs:").split("/")
    copy = Path(client.download_artifacts(finetune, folder, str(tmp_path)), "adapter_model.safetensors")
    assert copy.read_bytes() == b"weights of iteration 2"


def test_the_models_page_shows_the_benchmarks(recorded: Recorded) -> None:
    client, _, _ = recorded
    source = client.get_model_version_by_alias("csr", "best").source
    model = client.get_logged_model(source.removeprefix("models:/"))
    assert {m.key: m.value for m in model.metrics}["test/chair_i"] == pytest.approx(0.2)


def test_pictures_have_stable_names_and_can_be_looked_at(recorded: Recorded, tmp_path: Path) -> None:
    client, run_id, _ = recorded
    names = {Path(file.path).name for file in client.list_artifacts(run_id, "figures")}
    assert names == {
        *("metrics_test.png", "metrics_shifted.png"),
        *("rewards_iter_1.png", "rewards_iter_2.png", "pairs_iter_1.png", "pairs_iter_2.png"),
    }
    folder = Path(client.download_artifacts(run_id, "figures", str(tmp_path)))
    for name in names:
        with Image.open(folder / name) as picture:
            assert picture.format == "PNG"
            assert 600 <= picture.width <= 2000
            assert 300 <= picture.height <= 2000
            assert len(picture.convert("RGB").getcolors(2**24)) > 20  # not blank


def test_the_conclusion_is_the_runs_note(recorded: Recorded) -> None:
    client, run_id, _ = recorded
    assert "40.0 %" in client.get_run(run_id).data.tags["mlflow.note.content"]


def test_a_run_with_a_folder_of_its_own_is_named_by_it(new_run: Callable[..., Run], tmp_path: Path) -> None:
    run = replace(new_run(), layout=Layout(Path("runs", "half")))
    with tracked(run) as track:
        page = tmp_path / "report.html"
        page.write_text("<!doctype html>")
        track.keep_page(page)
    client = client_of(tmp_path)
    assert client.get_run(track.run_id).info.run_name == "runs/half: csr steady seed 0"
    assert "report.html" in [file.path for file in client.list_artifacts(track.run_id)]
