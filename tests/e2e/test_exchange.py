"""Pairs from elsewhere by the real command line: trained on as they are, by a stage, by the flow and for DVC."""

import json
from pathlib import Path

import pytest

from csr_core.layout import Layout
from csr_core.params import load_settings, with_values
from csr_core.preference.forms import to_authors
from csr_core.records import PREFERENCES, read_json, read_table
from tests.dpo.world import scene_preferences
from tests.e2e.conftest import SMALL, csr
from tests.versioning.projects import dvc, project


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of two iterations, and the authors' kind of set for its first, imported."""
    folder = tmp_path_factory.mktemp("brought")
    project(folder, iterations=2)
    sizes = {key: int(value) for key, value in (change.split("=") for change in SMALL) if key.count(".") == 1}
    path = folder / "params.yaml"
    text = path.read_text().replace("count: 500", "count: 6")
    path.write_text(with_values(text, {**sizes, "iterations": 2}))
    rows = [to_authors(row, [Path(row["images"][0]).name]) for row in scene_preferences(folder / "pictures", 8)]
    published = [{key: row[key] for key in row if key != "csr"} for row in rows]
    broken = {**published[0], "id": "broken", "image": "gone.png"}
    (folder / "set.json").write_text(json.dumps([*published, broken]))
    told = csr(folder, "import", "preferences", "set.json", "--images", "pictures", "--iteration", "1").stdout
    assert "8 pairs are those of iteration 1 now" in told
    assert "broken: pictures/gone.png is missing" in told
    return folder


def test_fine_tuning_trains_on_the_imported_pairs(brought: Path) -> None:
    pairs = read_table(Layout(brought).preferences(1), PREFERENCES)
    assert [pair["images"] for pair in pairs] == [[f"pictures/{n}.png"] for n in range(8)]
    csr(brought, "stage", "finetune", "--iteration", "1")
    trained = read_json(Layout(brought).model(1) / "summary.json")
    assert (trained["pairs"], trained["steps"], trained["left_out"]) == (8, 2, [])


def test_what_would_make_pairs_anew_is_refused(brought: Path) -> None:
    settings = load_settings(brought / "params.yaml")
    assert settings.pair.imported == [1]
    for name in ("prepare", "generate", "score"):
        done = csr(brought, "stage", name, "--iteration", "1", check=False)
        assert done.returncode == 2
        assert "the pairs of iteration 1 are imported" in done.stderr
    again = csr(brought, "import", "preferences", "set.json", "--iteration", "1", check=False)
    assert again.returncode == 2
    assert "--force" in again.stderr


def test_the_flow_takes_them_and_dvc_agrees(brought: Path) -> None:
    """The flow finds the first model up to date, and makes the second iteration's pairs with it."""
    csr(brought, "stage", "finetune", "--iteration", "1")
    said = csr(brought, "run").stdout
    assert "pair@1: up to date" in said
    assert "finetune@1: up to date" in said
    assert "generate@1" not in said
    assert "generate@2: done" in said
    assert not Layout(brought).candidates(1).exists()
    assert "up to date" in dvc(brought, "status")
    dvc(brought, "add", "imported/iter_1")
    assert (brought / "imported/iter_1.dvc").is_file()


def test_exported_pairs_come_back_equal(brought: Path, tmp_path: Path) -> None:
    csr(brought, "export", "preferences", "--iteration", "1", "--format", "authors", "--out", str(tmp_path / "set"))
    arguments = ["--images", str(tmp_path / "set"), "--iteration", "2", "--params", "other.yaml", "--force"]
    (brought / "other.yaml").write_text((brought / "params.yaml").read_text())
    csr(brought, "import", "preferences", str(tmp_path / "set/preferences.json"), *arguments)
    first, second = (read_table(Layout(brought).preferences(k), PREFERENCES) for k in (1, 2))
    assert first == second
    assert load_settings(brought / "other.yaml").pair.imported == [1, 2]
    assert load_settings(brought / "params.yaml").pair.imported == [1]
