"""What a run refuses before its first stage, without looking into any picture."""

import json
from pathlib import Path

import pytest
from PIL import Image

from csr_core.before_run import refuse_before_run, refuse_no_prompts
from csr_core.errors import CsrError, InputError
from tests.e2e.conftest import csr, small_settings


def written(path: Path, rows: list[dict[str, str]]) -> str:
    path.write_text(json.dumps(rows), "utf-8")
    return str(path)


def test_prompts_of_which_none_is_usable_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    gone = written(tmp_path / "gone.json", [{"image": "a.png", "prompt": "What is this?"}])
    refused = {
        str(tmp_path / "empty"): "holds neither a dataset nor pictures",
        written(tmp_path / "none.json", []): "it is empty",
        written(tmp_path / "other.json", [{"text": "no prompt"}]): "fields missing",
        gone: "has its picture: there is no .*a.png",
    }
    for source, reason in refused.items():
        with pytest.raises(InputError, match=reason):
            refuse_before_run(small_settings(tmp_path, f"data.prompts={source}"))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    refuse_before_run(small_settings(tmp_path, f"data.prompts={gone}"))


def test_the_folder_of_the_pictures_is_named_where_it_is_near(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    source = written(tmp_path / "p.json", [{"image": "a.png", "prompt": "What is this?"}])
    with pytest.raises(InputError, match=r"begin in, which is .*photos$"):
        refuse_no_prompts(small_settings(tmp_path, f"data.prompts={source}").data)


def test_no_picture_is_opened_and_one_that_is_there_is_enough(tmp_path: Path) -> None:
    rows = [{"image": f"{n}.png", "prompt": f"What is in picture {n}?"} for n in range(50)]
    (tmp_path / "49.png").write_bytes(b"no picture")
    refuse_no_prompts(small_settings(tmp_path, f"data.prompts={written(tmp_path / 'p.json', rows)}").data)


@pytest.mark.parametrize("setting", ["model.path=nobody/has-this", "reward.model=hf-hub:nobody/has-this"])
def test_a_model_that_cannot_be_had_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers, should the hub be asked
    with pytest.raises(CsrError, match=r"nobody/has-this is not on this machine.*hf download nobody/has-this"):
        refuse_before_run(small_settings(tmp_path, setting))


def test_a_run_ends_before_its_first_stage(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    csr(tmp_path, "init")
    done = csr(tmp_path, "run", "--set", "data.prompts=empty", check=False)
    assert done.returncode == 2
    assert "csr: empty holds neither a dataset nor pictures" in done.stderr
    assert not (tmp_path / "data").exists()
