"""A run on own pictures that is measured on drawn ones alone is told so."""

from pathlib import Path

from csr_core.evaluation.measured import measured_elsewhere
from tests.e2e.conftest import csr


def test_own_prompts_with_drawn_splits_alone_are_told() -> None:
    said = measured_elsewhere("own.jsonl", ["miniature:test", "miniature:shifted"])
    assert "miniature:test, miniature:shifted" in said
    assert measured_elsewhere("miniature", ["miniature:test"]) == ""
    assert measured_elsewhere("own.jsonl", ["held-out", "miniature:test"]) == ""
    assert measured_elsewhere("own.jsonl", []) == ""


def test_check_notes_it_and_run_says_it_before_it_starts(tmp_path: Path) -> None:
    csr(tmp_path, "miniature", "sample", "--out", "own", "--count", "3")
    csr(tmp_path, "init", "--prompts", "own/prompts.jsonl")
    told = "the figures are of drawn pictures (evaluate.splits: miniature:test, miniature:shifted), not of yours"
    assert f"note  measured on: {told}" in csr(tmp_path, "check", "--no-trial").stdout
    done = csr(tmp_path, "run", "--set", "model.path=./gone", check=False)
    assert done.stderr.startswith(told)
    csr(tmp_path, "init", "--force")
    assert "measured on" not in csr(tmp_path, "check", "--no-trial").stdout
