"""What a run leaves of its settings in its folder is what it ran with, and nobody's file is lost for it."""

from pathlib import Path

import pytest

from csr_core.config import Settings
from csr_core.errors import SettingsError
from csr_core.layout import Layout
from csr_core.params import load_settings, preset_values, render_params
from csr_core.run_settings import HEADER, keep_settings
from csr_core.stages.plan import plan
from flows.cli_root import settings_file

CHANGES = [
    "reward.image_weight=0.5",
    "preset=authors-code",
    "data.prompt=" + "What is in the picture, and where in the picture is it? " * 4,
    "evaluate.splits={mine: {folder: /data/held out, count: 7}}",
    "evaluate.twins={}",
    "evaluate.benchmarks={mme: /data/mme}",
    "evaluate.judge={url: 'http://host/v1', model: any}",
    "finetune.learning_rate=1e-7",
]


def settings(folder: Path, *changes: str) -> Settings:
    (folder / "params.yaml").write_text(render_params(preset_values("steady")))
    return load_settings(folder / "params.yaml", changes)


@pytest.mark.parametrize("changes", [[], CHANGES[:1], CHANGES])
def test_read_again_they_are_the_same(tmp_path: Path, changes: list[str]) -> None:
    ran_with, root = settings(tmp_path, *changes), tmp_path / "runs" / "half"
    keep_settings(ran_with, root, tmp_path)
    assert load_settings(root / "params.yaml") == ran_with
    assert [path.name for path in root.iterdir()] == ["params.yaml"]
    keep_settings(settings(tmp_path, "seed=3"), root, tmp_path)  # the next run's, over those of the first
    assert load_settings(root / "params.yaml").seed == 3


def test_a_password_stays_out(tmp_path: Path) -> None:
    keep_settings(settings(tmp_path, "tracking.mlflow_uri=https://ann:secret@host/"), tmp_path / "half", tmp_path)
    text = (tmp_path / "half" / "params.yaml").read_text()
    assert "https://host/" in text
    assert "secret" not in text


def test_a_users_file_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = settings(tmp_path)
    before = (tmp_path / "params.yaml").read_text()
    keep_settings(load_settings(tmp_path / "params.yaml", ["seed=3"]), tmp_path, tmp_path)  # the working folder
    assert (tmp_path / "params.yaml").read_text() == before
    assert not capsys.readouterr().err
    keep_settings(own, tmp_path, tmp_path.parent)  # another folder, where somebody wrote one that says the same
    assert not capsys.readouterr().err
    keep_settings(load_settings(tmp_path / "params.yaml", ["seed=3"]), tmp_path, tmp_path.parent)
    assert (tmp_path / "params.yaml").read_text() == before
    assert "is not of this run, and stays" in capsys.readouterr().err


def test_it_decides_nothing_about_what_is_up_to_date(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "half")
    for stage in ("prepare", "generate", "score", "pair", "finetune", "evaluate", "guard"):
        call = plan(stage, 1, settings(tmp_path), layout)
        assert layout.root / "params.yaml" not in call.inputs
        assert layout.root not in call.inputs


def test_which_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path("half")
    assert settings_file(None, root) == Path("params.yaml")
    root.mkdir()
    (root / "params.yaml").write_text(HEADER)
    assert settings_file(None, root) == root / "params.yaml"
    assert settings_file(Path("mine.yaml"), root) == Path("mine.yaml")
    assert settings_file(None, Path()) == Path("params.yaml")


def test_inside_a_run_without_settings_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Layout().metrics(0).parent.mkdir()
    Layout().metrics(0).write_text("{}")
    with pytest.raises(SettingsError, match="name this one with --root"):
        settings_file(None, Path())
