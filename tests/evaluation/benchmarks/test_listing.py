"""`csr evaluate --list`, and answers scored that are already written."""

import json

import pytest

from csr_core.checks import missing_files
from csr_core.config import JudgeSettings
from csr_core.errors import InputError, SettingsError
from csr_core.evaluation.benchmarks import BENCHMARKS
from csr_core.evaluation.listing import listing, score_answers
from csr_core.params import settings_from
from tests.evaluation.benchmarks import folders
from tests.evaluation.benchmarks.endpoint import endpoint


def test_listing_says_what_is_there_and_what_is_missing(tmp_path):
    folders.gqa(tmp_path / "gqa")
    (tmp_path / "vizwiz/val").mkdir(parents=True)
    text = listing({"gqa": str(tmp_path / "gqa"), "vizwiz": str(tmp_path / "vizwiz")})
    blocks = dict(zip(BENCHMARKS, text.split("\n\n"), strict=False))
    assert f"complete in {tmp_path}/gqa" in blocks["gqa"]
    assert f"1 missing in {tmp_path}/vizwiz" in blocks["vizwiz"]
    assert "  - val.json" in blocks["vizwiz"]
    assert "  + val " in blocks["vizwiz"]
    assert "no folder named" in blocks["mme"]
    assert all(module.SOURCE in blocks[name] for name, module in BENCHMARKS.items())


def test_check_names_missing_files(tmp_path):
    folders.vizwiz(tmp_path)
    (tmp_path / "val.json").unlink()
    problems = missing_files(settings_from({"evaluate": {"benchmarks": {"vizwiz": str(tmp_path), "gqa": "none"}}}))
    assert [problem.split(":")[0] for problem in problems] == ["evaluate.benchmarks.vizwiz", "evaluate.benchmarks.gqa"]
    assert "val.json" in problems[0]


def test_scoring_answers_of_another_benchmark_is_refused(tmp_path):
    answers = tmp_path / "answers.jsonl"
    answers.write_text('{"key": "x", "answer": "yes"}\n')
    with pytest.raises(InputError, match="'201'"):
        score_answers("gqa", folders.gqa(tmp_path / "gqa"), answers, None, tmp_path / "kept")
    with pytest.raises(SettingsError, match="science_qa"):
        score_answers("sqa", tmp_path, answers, None, tmp_path / "kept")


def test_a_judge_later_on(tmp_path):
    """Of three answers two are in the file; the judge gives 0.5 to each, and is not asked about them again."""
    folder, answers = folders.mm_vet(tmp_path / "mm_vet"), tmp_path / "answers.jsonl"
    folders.write(answers, [{"key": key, "answer": f"cat {key}"} for key in ("v1_0", "v1_1")], lines=True)
    with endpoint(lambda body: "0.5") as server:
        judge = JudgeSettings(url=server.url, model="strict")
        for _ in range(2):
            figures, summary = score_answers("mm_vet", folder, answers, judge, tmp_path / "kept.jsonl")
        assert len(server.bodies) == 2
    assert (figures["score"]["value"], figures["score"]["n"], summary["unanswered"]) == (0.5, 2, 1)
    made = [json.loads(line) for line in (tmp_path / "mm_vet_judgements.jsonl").read_text().splitlines()]
    assert [(row["key"], row["model"], row["answered_by"]) for row in made] == [
        ("v1_0", "strict", "strict-0613"),
        ("v1_1", "strict", "strict-0613"),
    ]
