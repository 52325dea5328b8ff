"""Real photos in the authors' format, bad input among good, and settings that are refused before anything runs."""

import json
import shutil
from pathlib import Path

import pytest

from csr_core.layout import Layout
from csr_core.loop import iterate
from csr_core.miniature.weights import shipped
from csr_core.records import PROMPTS, read_json, read_table
from tests.e2e.conftest import SMALL, csr, pairs, sets, small_settings
from tests.test_prompts import bomb

COCO = Path(__file__).parents[2].parent / "shared" / "data" / "coco"


@pytest.mark.skipif(
    not COCO.is_dir(), reason="needs the 64 COCO photos of ../shared/data/coco, which are not part of this repository"
)
def test_the_pipeline_runs_on_real_photos(tmp_path: Path) -> None:
    settings = small_settings(
        tmp_path,
        f"data.prompts={COCO / 'prompts.json'}",
        f"data.images={COCO / 'images'}",
        "data.per_iteration=null",
        "generate.max_sentences=3",
        "pair.same_length_share=0",
    )
    iterate(settings, Layout(tmp_path))
    prompts = read_table(Layout(tmp_path).prompts(1), PROMPTS)
    assert len(prompts) == 64
    assert pairs(tmp_path)


def test_bad_input_leaves_the_rest_unharmed(tmp_path: Path) -> None:
    csr(tmp_path, "miniature", "sample", "--out", "world", "--split", "validation", "--count", "6")
    rows = [json.loads(line) for line in (tmp_path / "world" / "prompts.jsonl").read_text().splitlines()]
    image = rows[0]["image"]
    bad = {
        "unreadable": {"image": "images/noise.png"},
        "truncated": {"image": "images/cut.png"},
        "bomb": {"image": "images/bomb.png"},
        "missing": {"image": "images/gone.png"},
        "empty": {"image": image, "prompt": ""},
        "long": {"image": image, "prompt": "why " * 3000},
    }
    images = tmp_path / "world" / "images"
    (images / "noise.png").write_bytes(b"\x00" * 100)
    (images / "cut.png").write_bytes((tmp_path / "world" / image).read_bytes()[:-200])
    bomb(images / "bomb.png")
    rows += [{"id": name, "prompt": "Describe the image.", **row} for name, row in bad.items()]
    rows.append({**rows[0], "id": "twice"})
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    csr(tmp_path, "init", "--prompts", "p.jsonl", "--images", "world")
    done = csr(tmp_path, "stage", "prepare", "--iteration", "1", *sets(SMALL))
    assert "left out 7" in done.stdout
    left_out = {item["prompt_id"] for item in read_json(Layout(tmp_path).prompts(1) / "summary.json")["left_out"]}
    assert left_out == {*bad, "twice"}
    assert len(read_table(Layout(tmp_path).prompts(1), PROMPTS)) == 6
    csr(tmp_path, "stage", "generate", "--iteration", "1", *sets(SMALL))


def test_a_model_with_a_missing_file_is_refused_by_check_and_by_the_stage(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(shipped("llava"), broken)
    (broken / "model.safetensors").unlink()
    csr(tmp_path, "init", "--model", "broken")
    for arguments in (["check", "--no-trial"], ["stage", "evaluate", "--iteration", "0"]):
        csr(tmp_path, "stage", "prepare", "--iteration", "0", *sets(SMALL))
        done = csr(tmp_path, *arguments, *(sets(SMALL)), check=False)
        assert done.returncode in (1, 2)
        assert "model.safetensors" in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    done = csr(tmp_path, "run", *sets(SMALL), check=False)  # two shards find it, each in a process of its own
    assert done.returncode == 2
    assert done.stderr.count("cannot load the model") == 1
    assert done.stderr.splitlines()[-1].startswith("csr: ")
    assert "model.safetensors" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_everything_wrong_is_told_before_anything_runs(tmp_path: Path) -> None:
    csr(tmp_path, "init")
    wrong = ["data.prompts=gone.json", "data.images=gone", "model.path=./gone", "evaluate.splits.test.folder=gone"]
    done = csr(tmp_path, "run", *sets(wrong), check=False)
    assert done.returncode == 2
    assert "4 file(s)" in done.stderr
    assert not (tmp_path / "data").exists()
    done = csr(tmp_path, "run", "--set", "reward.weight=1", "--set", "iterations=-1", check=False)
    assert "2 problems" in done.stderr


def test_check_estimates_the_run(tmp_path: Path) -> None:
    csr(tmp_path, "init")
    done = csr(tmp_path, "check")
    assert "FAIL" not in done.stdout
    for word in ("policy", "reward model", "memory", "disk", "time"):
        assert word in done.stdout
