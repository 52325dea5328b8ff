"""A reward model that cannot be right, or that nothing could be tried on: what is refused, what is said, where."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from csr_core.config import Settings
from csr_core.errors import SettingsError
from csr_core.layout import Layout
from csr_core.miniature.dataset import write_split
from csr_core.miniature.weights import shipped
from csr_core.params import initial_params
from csr_core.reward.verdict import tried, unfit, untried
from csr_core.stages.plan import plan
from flows.weak_reward import _say_once, refuse_weak_reward
from tests.e2e.conftest import SMALL, csr, sets

OWN = str(shipped("clip"))  # by its path it is a model as any other
ALLOW = "reward.allow_weak=true"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of pictures and nothing else."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32), (80 * number, 0, 0)).save(folder / f"{number}.jpg")
    return folder


def settings_of(prompts: Path | str, **reward: Any) -> Settings:
    splits = {"test": {"folder": "miniature:test"}}
    return Settings(data={"prompts": str(prompts)}, reward=reward, evaluate={"splits": splits})


def test_the_shipped_model_is_for_its_own_world(photos: Path) -> None:
    assert "drawn scenes alone" in unfit(settings_of(photos))
    assert "drawn scenes alone" in unfit(settings_of("hf://owner/name"))
    assert "drawn scenes alone" in unfit(settings_of(photos, model=["miniature", OWN]))
    assert unfit(settings_of("miniature")) == ""
    assert unfit(settings_of(photos, model=OWN)) == ""
    nothing_rewarded = Settings(data={"prompts": str(photos)}, iterations=1, pair={"imported": [1]})
    assert unfit(nothing_rewarded) == ""


def test_annotations_of_the_prompts_decide_and_not_those_of_held_out_pictures(photos: Path, tmp_path: Path) -> None:
    world = tmp_path / "world"
    write_split(world, "validation", count=2, seed=0)
    splits = {"test": {"folder": str(world)}}
    assert unfit(Settings(data={"prompts": str(photos)}, evaluate={"splits": splits})) != ""
    assert unfit(settings_of(world / "prompts.jsonl")) == ""  # a trial tells more
    shutil.copy(world / "instances.json", photos)
    assert unfit(settings_of(photos)) == ""


def test_a_trial_that_could_not_be_made_is_a_note(photos: Path, tmp_path: Path) -> None:
    found = tried(settings_of(photos, model=OWN), tmp_path / ".csr")
    assert (found.ok, found.note) == (True, True)
    assert "not made" in found.detail
    assert "csr reward check --instances FILE" in found.detail
    (photos / "instances.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    found = tried(settings_of(photos, model=OWN), tmp_path / ".csr")
    assert (found.ok, found.note, "not made" in found.detail) == (True, True, True)
    (photos / "instances.json").unlink()
    for allowed in (False, True):
        found = tried(settings_of(photos, allow_weak=allowed), tmp_path / ".csr")
        assert (found.ok, found.note) == (allowed, allowed)
        assert "drawn scenes alone" in found.detail


def test_a_run_says_once_that_nothing_was_tried(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _say_once.cache_clear()
    params = tmp_path / "params.yaml"
    params.write_text(initial_params("steady", {"data.prompts": str(photos), "reward.model": OWN}))
    for _ in range(2):  # the command, then its flow
        refuse_weak_reward(params)
    assert capsys.readouterr().err.count("the reward model was not tried: no annotations") == 1
    with pytest.raises(SettingsError, match="drawn scenes alone"):
        refuse_weak_reward(params, ["reward.model=miniature"])
    refuse_weak_reward(params, ["reward.model=miniature", ALLOW])
    assert "reward.allow_weak is set" in capsys.readouterr().err
    refuse_weak_reward(params, ["data.prompts=miniature", "reward.model=miniature", ALLOW])
    assert capsys.readouterr().err == ""  # the shipped model on its own world


def test_what_the_report_is_told_of_it(photos: Path, tmp_path: Path) -> None:
    assert untried(settings_of(photos)) == untried(settings_of("miniature", allow_weak=True)) == ""
    assert "drawn scenes alone" in untried(settings_of(photos, allow_weak=True))
    own = settings_of(photos, model=OWN, allow_weak=True)
    assert untried(own).startswith("reward.allow_weak was set: the reward model was not held to its trial")
    layout = Layout(tmp_path)
    allowed, held = (plan("score", 1, settings_of(photos, model=OWN, allow_weak=a), layout) for a in (True, False))
    assert (allowed.untried, held.untried) == (untried(own), "")
    assert allowed.settings == held.settings  # nothing is made anew for it


def test_pictures_of_ones_own_are_refused_for_the_miniature_and_the_report_says_where_they_were_let_through(
    tmp_path: Path,
) -> None:
    csr(tmp_path, "miniature", "sample", "--out", "world", "--split", "train", "--count", "8")
    (tmp_path / "world" / "images").rename(tmp_path / "photos")  # drawn, so that there are pairs; nothing says so
    csr(tmp_path, "init")
    own = sets([*SMALL, "data.prompts=photos", "data.per_iteration=null", "iterations=1"])
    for words in (["run"], ["stage", "prepare", "--iteration", "1"]):
        done = csr(tmp_path, *words, *own, check=False)
        assert done.returncode == 2
        assert "drawn scenes alone" in done.stderr
        assert ALLOW in done.stderr
        assert not (tmp_path / "data").exists()
    done = csr(tmp_path, "check", "--no-trial", *own, check=False)
    assert done.returncode == 1
    assert "FAIL  reward trial: reward.model is 'miniature'" in done.stdout
    done = csr(tmp_path, "check", "--no-trial", *own, "--set", ALLOW)
    assert "note  reward trial: reward.model is 'miniature'" in done.stdout
    done = csr(tmp_path, "run", *own, "--set", ALLOW)
    assert done.stderr.count("reward.allow_weak is set") == 1
    assert "reward.allow_weak was set" in Layout(tmp_path).report.read_text("utf-8")
