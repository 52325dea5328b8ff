"""dvc.yaml fits the settings, and the settings file survives what DVC writes into it."""

from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_py, load_yaml

from csr_core.dvcfile import PLAN, render
from csr_core.params import flatten, load_settings, preset_values, render_params
from csr_core.presets import PRESETS
from csr_core.stages.plan import VERSIONS
from tests.versioning.projects import project

ROOT = Path(__file__).parents[2]


def reads(folder: Path, *overrides: str) -> dict[str, set[str]]:
    """The dependencies of each stage, as DVC reads the file that is written for these settings."""
    settings = load_settings(folder / "params.yaml", overrides)
    (folder / "dvc.yaml").write_text(render(settings, folder), "utf-8")
    with Repo(str(folder)) as repo:
        return {stage.name: {dep.def_path for dep in stage.deps} for stage in repo.index.stages}


def test_the_committed_file_is_that_of_the_default_settings() -> None:
    assert (ROOT / "dvc.yaml").read_text("utf-8") == render(load_settings(ROOT / "params.yaml"), ROOT)


def test_the_code_of_a_checkout_counts() -> None:
    stages = yaml.safe_load(render(load_settings(ROOT / "params.yaml"), ROOT))["stages"]
    versions = load_py(str(ROOT / PLAN))["VERSIONS"]
    assert versions == VERSIONS
    for name in versions:
        assert {PLAN: [f"VERSIONS.{name}"]} in stages[name]["do"]["params"]


@pytest.mark.parametrize("iterations", [1, 4])
def test_as_many_iterations_as_the_settings_say(tmp_path: Path, iterations: int) -> None:
    project(tmp_path, iterations)
    found = reads(tmp_path)
    assert len(found) == 2 + 7 * iterations
    assert f"evaluate@{iterations}" in found


def test_models_and_data_in_folders_are_dependencies(tmp_path: Path) -> None:
    project(tmp_path)
    for name in ("my model, 7B", "clip", "world/held out", "images"):
        (tmp_path / name).mkdir(parents=True)
    found = reads(
        tmp_path,
        "iterations=2",
        "model.path=my model, 7B",
        "reward.model=clip",
        "data.prompts=prompts.json",
        "data.images=images",
        "evaluate.splits.test.folder=world/held out",
    )
    assert {"prompts.json", "images"} < found["prepare@1"]
    assert {"my model, 7B", "data/iter_1/prompts", "clip"} < found["generate@1"]
    assert {"models/iter_1", "data/iter_2/prompts", "clip"} < found["generate@2"]
    assert {"my model, 7B", "data/iter_1/preferences"} < found["finetune@1"]
    assert "clip" in found["score@2"]
    assert {"my model, 7B", "world/held out", "data/splits"} < found["base"]
    assert {"models/iter_2", "world/held out", "data/iter_0/answers"} < found["evaluate@2"]


@pytest.mark.parametrize("iterations", [1, 2])
def test_imported_pairs_take_the_place_of_the_stages_that_make_them(tmp_path: Path, iterations: int) -> None:
    project(tmp_path)
    found = reads(tmp_path, f"iterations={iterations}", "pair.imported=[1]")
    assert not {"prepare@1", "generate@1", "score@1"} & set(found)
    assert "imported/iter_1" in found["pair@1"]
    assert {"imported/iter_1", "data/iter_1/preferences"} < found["finetune@1"]
    if iterations > 1:
        assert {"data/iter_2/prompts", "data/iter_2/scores"} < found["pair@2"]
        assert "imported/iter_1" not in found["pair@2"]
        assert "models/iter_1" in found["generate@2"]


def test_prompts_on_a_hub_are_among_the_settings_only(tmp_path: Path) -> None:
    project(tmp_path)
    (tmp_path / "images").mkdir()
    assert reads(tmp_path, "data.prompts=hf://owner/name:test")["prepare@1"] == {"params.yaml"}
    assert reads(tmp_path, "data.prompts=hf://owner/name:test", "data.images=images")["prepare@1"] == {
        "images",
        "params.yaml",
    }


def test_a_base_on_a_hub_is_among_the_settings_only(tmp_path: Path) -> None:
    project(tmp_path)
    found = reads(tmp_path, "iterations=2", "model.path=llava-hf/llava-1.5-7b-hf", "reward.model=ViT-L-14-336:openai")
    assert not [path for paths in found.values() for path in paths if "llava" in path or "ViT" in path]
    assert "models/iter_1" in found["generate@2"]


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_params_yaml_survives_an_experiment(tmp_path: Path, preset: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(render_params(preset_values(preset, miniature=False)), "utf-8")
    before = flatten(load_settings(path))
    apply_overrides(path, ["reward.image_weight=0.5"])  # as `dvc exp run -S` does
    assert flatten(load_settings(path)) == {**before, "reward.image_weight": 0.5}
    assert load_yaml(str(path))["reward"]["image_weight"] == 0.5  # DVC itself is stricter than our loader
