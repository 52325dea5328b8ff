"""Settings: one file, all problems at once, presets that cannot silently do nothing."""

from pathlib import Path

import pytest

from csr_core.errors import SettingsError
from csr_core.params import flatten, load_settings, preset_values, render_params, with_values
from csr_core.presets import PRESETS


def write(folder: Path, preset: str = "steady", miniature: bool = True) -> Path:
    path = folder / "params.yaml"
    path.write_text(render_params(preset_values(preset, miniature)))
    return path


@pytest.mark.parametrize("miniature", [True, False])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_rendered_preset_loads_to_its_values(tmp_path: Path, preset: str, miniature: bool) -> None:
    flat = flatten(load_settings(write(tmp_path, preset, miniature)))
    assert {key: flat[key] for key in preset_values(preset, miniature)} == preset_values(preset, miniature)


def test_every_setting_stands_in_the_file_with_its_meaning(tmp_path: Path) -> None:
    text = write(tmp_path).read_text()
    for key in flatten(load_settings(tmp_path / "params.yaml")):
        assert f"{key.split('.')[-1]}:" in text, key


def test_the_shipped_params_are_the_steady_preset() -> None:
    assert (Path(__file__).parents[1] / "params.yaml").read_text() == render_params(preset_values("steady"))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    wrong = ["reward.image_wieght=0.5", "reward.image_weight=2", "iterations=0", "nonsense=1", "pair.path_score=best"]
    with pytest.raises(SettingsError) as caught:
        load_settings(write(tmp_path), wrong)
    message = str(caught.value)
    assert "5 problems" in message
    assert "did you mean 'image_weight'?" in message
    for key in ("reward.image_weight:", "iterations:", "nonsense:", "pair.path_score:"):
        assert key in message


def test_a_mistake_in_an_override_is_told_as_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"in \S+params.yaml with --set image_weight, device:") as caught:
        load_settings(write(tmp_path), ["image_weight=0.5", "device=cpu"])
    assert "image_weight: there is no such setting; did you mean reward.image_weight?" in str(caught.value)
    assert "did you mean model.device or reward.device?" in str(caught.value)
    (tmp_path / "params.yaml").write_text("image_weight: 0.5")
    with pytest.raises(SettingsError, match=r"1 problem in \S+params.yaml:"):
        load_settings(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("sets", "part"),
    [
        (["generate.keep_best=0", "generate.keep_worst=0"], "no node would be grown"),
        (["generate.method=diverse_beam", "generate.width=7"], "multiple of beam_groups"),
        (["generate.max_sentences=null"], "grow for ever"),
        (["reward.combine=rank"], "rank_mean"),
        (["reward"], "section.key=value"),
        (["preset=best"], "expected one of"),
    ],
)
def test_impossible_settings_say_what_to_change(tmp_path: Path, sets: list[str], part: str) -> None:
    with pytest.raises(SettingsError, match=part):
        load_settings(write(tmp_path), sets)


def test_overrides_go_over_a_preset_override(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, "paper"), ["reward.image_weight=0.25", "preset=steady", "seed=7"])
    assert (settings.preset, settings.pair.path_score) == ("steady", "threshold_sum")
    assert (settings.reward.image_weight, settings.seed) == (0.25, 7)


def test_a_value_is_put_into_a_file_with_its_comments(tmp_path: Path) -> None:
    path = write(tmp_path)
    before = path.read_text()
    path.write_text(with_values(before, {"pair.imported": [1, 2]}))
    assert load_settings(path).pair.imported == [1, 2]
    assert path.read_text().replace("[1, 2]    ", "[]        ") == before
    with pytest.raises(SettingsError, match=r"pair\.imported = \[1\]"):
        with_values("pair:\n  imported:\n  - 1\n", {"pair.imported": [1]})


def test_a_preset_line_changed_by_hand_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "steady")
    path.write_text(path.read_text().replace("preset: steady", "preset: paper"))
    with pytest.raises(SettingsError, match="those of 'steady'"):
        load_settings(path)


def test_numbers_in_exponent_form_are_numbers(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path), ["finetune.learning_rate=1e-7"]).finetune.learning_rate == 1e-7


@pytest.mark.parametrize("text", ["[1, 2]", "model: [", ""])
def test_a_file_that_is_no_settings_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError):
        load_settings(path)


@pytest.mark.parametrize("value", ["{a: 1}", "[steady]", "3"])
def test_a_preset_that_is_no_name_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match="preset"):
        load_settings(write(tmp_path), [f"preset={value}"])
