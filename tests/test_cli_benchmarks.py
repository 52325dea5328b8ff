"""`csr evaluate --list`, `score` and `lmms-eval` as a user meets them."""

from pathlib import Path

from tests.e2e.conftest import csr
from tests.evaluation.benchmarks import folders
from tests.evaluation.benchmarks.standin import environment


def test_list_and_score(tmp_path: Path) -> None:
    assert "MMBench" in csr(tmp_path, "evaluate", "--list").stdout
    assert "score" in csr(tmp_path, "evaluate").stdout
    folders.gqa(tmp_path / "gqa")
    folders.write(tmp_path / "answers.jsonl", [{"question_id": "201", "text": "yes"}], lines=True)
    done = csr(tmp_path, "evaluate", "score", "gqa", "--answers", "answers.jsonl", "--folder", "gqa")
    assert "2 of 3 questions have no answer" in done.stdout
    assert "100.00" in done.stdout
    done = csr(tmp_path, "evaluate", "score", "gqa", "--answers", "a", "--folder", "b", "--judge-url", "c", check=False)
    assert (done.returncode, "--judge-model" in done.stderr) == (2, True)


def test_lmms_eval(tmp_path: Path) -> None:
    python = environment(tmp_path)
    csr(tmp_path, "init")
    done = csr(tmp_path, "evaluate", "lmms-eval", "--iteration", "0", "--tasks", "a", "--python", str(python))
    assert "0.5 +- 0.05" in done.stdout
    assert (tmp_path / "evaluations/lmms-eval/iter_0/results.json").is_file()
    arguments = ("evaluate", "lmms-eval", "--iteration", "0", "--tasks", "none", "--python", str(python))
    done = csr(tmp_path, *arguments, check=False)
    assert (done.returncode, "there is no task none" in done.stderr) == (2, True)
