"""Preset files: valid, in step with the template, and taken by the command line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from csr_core.params import header, initial_params, load_settings, render_params, values_of
from csr_core.presets import PRESETS, about_presets, preset_files
from tests.e2e.conftest import csr

NAMES = [
    "llava-1.5-13b-paper", "llava-1.5-7b-authors-code", "llava-1.5-7b-paper", "miniature", "qwen2.5-vl-7b", "smolvlm-2b"
]  # fmt: skip


def test_the_presets_are_these() -> None:
    assert list(preset_files()) == NAMES
    assert list(about_presets()) == [*PRESETS, *NAMES]


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_file_is_its_header_and_the_template_with_its_values(name: str) -> None:
    path = preset_files()[name]
    top = header(path)
    assert path.read_text("utf-8") == top + render_params(values_of(load_settings(path)))
    assert top.startswith(f"# {name}: ")
    for what in ("Command:", "Hardware:", "Hours:", "Expected:"):
        assert f"# {what}" in top
    assert all(line.startswith("#") or not line for line in top.splitlines())


@pytest.mark.parametrize("name", [name for name in NAMES if name != "miniature"])
def test_what_nobody_has_run_says_so(name: str) -> None:
    top = header(preset_files()[name])
    assert "ESTIMATE" in top
    assert "not yet reproduced" in top


def test_the_methods_values_are_those_of_its_preset() -> None:
    for name in NAMES:
        flat = values_of(load_settings(preset_files()[name]))
        beside = {"finetune.likelihood_weight"} if name == "miniature" else set()
        method = PRESETS[flat["preset"]]
        assert {key: flat[key] for key in method if key not in beside} == {
            key: value for key, value in method.items() if key not in beside
        }


def test_init_takes_a_preset_file_with_data_of_ones_own(tmp_path: Path) -> None:
    csr(tmp_path, "init", "--preset", "llava-1.5-7b-paper", "--prompts", "mine.json", "--images", "photos")
    settings = load_settings(tmp_path / "params.yaml")
    assert (settings.data.prompts, settings.data.images) == ("mine.json", "photos")
    assert (settings.model.path, settings.preset) == ("llava-hf/llava-1.5-7b-hf", "paper")
    assert (tmp_path / "params.yaml").read_text().startswith(header(preset_files()["llava-1.5-7b-paper"]))


def test_the_names_are_listed(tmp_path: Path) -> None:
    for arguments in (["presets"], ["init", "--list"]):
        lines = csr(tmp_path, *arguments).stdout.splitlines()
        assert [line.split()[0] for line in lines] == [*PRESETS, *NAMES]
    assert not (tmp_path / "params.yaml").exists()


def test_a_preset_file_can_be_used_as_it_is(tmp_path: Path) -> None:
    shutil.copy(preset_files()["miniature"], tmp_path / "own.yaml")
    csr(tmp_path, "miniature", "sample", "--out", "w", "--count", "2")
    done = csr(
        tmp_path, "stage", "prepare", "--iteration", "1", "--params", "own.yaml", "--set", "data.per_iteration=2"
    )
    assert "prepare@1: done" in done.stdout


def test_a_name_that_is_none_is_told_with_those_there_are() -> None:
    from csr_core.errors import SettingsError

    with pytest.raises(SettingsError, match=r"paper.*smolvlm-2b"):
        initial_params("best", {})
