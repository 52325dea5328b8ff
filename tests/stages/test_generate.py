"""The generate stage on the shipped miniature: what comes out does not depend on how the work is cut up."""

from pathlib import Path

import pytest
import torch

from csr_core.config import Settings
from csr_core.errors import InputError
from csr_core.miniature.draw import draw
from csr_core.miniature.world import DESCRIBE, sample_split
from csr_core.records import CANDIDATES, PROMPTS, read_json, read_table, write_table
from csr_core.stages.generate import generate

PROMPT_COUNT = 8


def settings(**changes) -> Settings:
    options = {"max_sentences": 3, "shard_size": 4, "batch_size": 8, **changes}
    return Settings.model_validate({"model": {"device": "cpu"}, "reward": {"device": "cpu"}, "generate": options})


def write_prompts(folder: Path, rows: list[dict]) -> Path:
    write_table(folder / "prompts.parquet", rows, PROMPTS)
    return folder


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prompts")
    rows = []
    for index, scene in enumerate(sample_split("train", PROMPT_COUNT, 0, 1)):
        draw(scene).save(folder / f"{index}.png")
        rows.append({"prompt_id": f"p{index}", "image": str(folder / f"{index}.png"), "prompt": DESCRIBE})
    return write_prompts(folder, rows)


@pytest.fixture(scope="module")
def usual(prompts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("usual")
    generate(settings(), 1, prompts, None, out)
    return out


def same(left: Path, right: Path) -> bool:
    """Whether two outputs hold the same rows: numbers to 1e-4, all else exactly."""
    ours, theirs = read_table(left, CANDIDATES), read_table(right, CANDIDATES)
    numbers = ("log_likelihood", "score")
    for name in numbers:
        first, second = ([row.pop(name) for row in rows] for rows in (ours, theirs))
        if len(first) != len(second) or not torch.allclose(torch.tensor(first), torch.tensor(second), atol=1e-4):
            return False
    return ours == theirs


def test_what_it_leaves_behind(usual):
    rows, summary = read_table(usual, CANDIDATES), read_json(usual / "summary.json")
    assert sorted(file.name for file in usual.glob("*.parquet")) == ["part-00000.parquet", "part-00001.parquet"]
    assert {row["prompt_id"] for row in rows} == {f"p{index}" for index in range(PROMPT_COUNT)}
    assert summary["prompts"] == summary["grown"] == PROMPT_COUNT
    assert summary["nodes"] == sum(row["parent"] is not None for row in rows)
    assert summary["complete_responses"] == sum(row["is_final"] for row in rows) > 0
    assert summary["left_out"] == []


@pytest.mark.parametrize("changes", [{"batch_size": 1}, {"shard_size": 1}], ids=str)
def test_how_the_work_is_cut_up_changes_nothing(changes, prompts, usual, tmp_path):
    generate(settings(**changes), 1, prompts, None, tmp_path)
    assert same(tmp_path, usual)
    assert read_json(tmp_path / "summary.json") == read_json(usual / "summary.json")


def test_beams_do_not_depend_on_the_batch_either(prompts, tmp_path):
    beams = {"method": "diverse_beam", "width": 4, "beam_groups": 2, "keep_best": 1, "keep_worst": 1}
    for name, changes in {"one": {"batch_size": 1, "shard_size": 1}, "many": {}}.items():
        generate(settings(**beams, **changes), 1, prompts, None, tmp_path / name)
    assert same(tmp_path / "one", tmp_path / "many")


def test_an_interrupted_run_goes_on(prompts, usual, tmp_path):
    generate(settings(), 1, prompts, None, tmp_path)
    kept = (tmp_path / "part-00001.parquet").stat().st_mtime_ns
    # As after a kill: the counts of a shard are there, its table is not; and a file half-written beside.
    (tmp_path / "part-00000.parquet").unlink()
    (tmp_path / "summary.json").unlink()
    (tmp_path / ".part-00000.parquet.abc.tmp").write_bytes(b"PAR1")
    generate(settings(), 1, prompts, None, tmp_path)
    assert same(tmp_path, usual)
    assert (tmp_path / "part-00001.parquet").stat().st_mtime_ns == kept
    assert (tmp_path / "summary.json").read_bytes() == (usual / "summary.json").read_bytes()


def test_another_iteration_gives_other_candidates(prompts, usual, tmp_path):
    generate(settings(), 2, prompts, None, tmp_path)
    assert not same(tmp_path, usual)


def test_bad_prompts_are_left_out_and_named(prompts, usual, tmp_path):
    good = read_table(prompts, PROMPTS)[:2]
    (tmp_path / "cut.png").write_bytes(Path(good[0]["image"]).read_bytes()[:200])
    bad = [
        {**good[0], "prompt_id": "missing", "image": str(tmp_path / "no.png")},
        {**good[0], "prompt_id": "cut", "image": str(tmp_path / "cut.png")},
        {**good[0], "prompt_id": "long", "prompt": "dog " * 5000},
        {**good[0], "prompt_id": "two pictures", "prompt": "<image> and this?"},
    ]
    folder = write_prompts(tmp_path / "prompts", [bad[0], good[0], *bad[1:], good[1]])
    summary = generate(settings(), 1, folder, None, tmp_path / "out")
    reasons = {item["prompt_id"]: item["reason"] for item in summary["left_out"]}
    assert list(reasons) == ["missing", "cut", "long", "two pictures"]
    assert "is missing" in reasons["missing"]
    assert "context" in reasons["long"]
    assert "<image>" in reasons["two pictures"]
    found = read_table(tmp_path / "out", CANDIDATES)
    want = [row for row in read_table(usual, CANDIDATES) if row["prompt_id"] in ("p0", "p1")]
    assert [(row["prompt_id"], row["text"]) for row in found] == [(row["prompt_id"], row["text"]) for row in want]


def test_what_was_left_out_is_still_told_after_a_resume(prompts, tmp_path):
    rows = read_table(prompts, PROMPTS)[:2]
    rows.insert(0, {**rows[0], "prompt_id": "missing", "image": str(tmp_path / "no.png")})
    folder, out = write_prompts(tmp_path / "prompts", rows), tmp_path / "out"
    first = generate(settings(shard_size=1), 1, folder, None, out)
    (out / "part-00002.parquet").unlink()
    assert generate(settings(shard_size=1), 1, folder, None, out) == first
    assert [item["prompt_id"] for item in first["left_out"]] == ["missing"]


def test_a_whole_run_is_not_repeated(prompts, usual):
    before = {file.name: file.stat().st_mtime_ns for file in usual.glob("part-*")}
    generate(settings(), 1, prompts, None, usual)
    assert {file.name: file.stat().st_mtime_ns for file in usual.glob("part-*")} == before


def test_a_broken_model_is_named(prompts, tmp_path):
    broken = settings().model_copy(update={"model": settings().model.model_copy(update={"path": str(tmp_path)})})
    with pytest.raises(InputError, match="cannot load the model"):
        generate(broken, 1, prompts, None, tmp_path / "out")
