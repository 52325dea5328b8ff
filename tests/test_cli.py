"""The command line as a user meets it: help at once, errors in words."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import csr


def test_help_loads_nothing_heavy() -> None:
    """`csr --help` must answer at once: of the packages the program needs, only typer may be loaded by then."""
    code = (
        "import sys, flows.cli\n"
        "heavy = {'torch', 'transformers', 'prefect', 'mlflow', 'dvc', 'pydantic', 'numpy', 'datasets', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_chat_looks_for_the_picture_before_it_loads_anything_heavy(tmp_path: Path) -> None:
    csr(tmp_path, "init")
    code = (
        "import sys; from flows.cli import main\n"
        "sys.argv = ['csr', 'chat', 'gone.jpg']\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is no picture gone.jpg" in done.stderr
    assert done.stdout.strip() == "[]"


def test_init_says_what_is_not_there_yet(tmp_path: Path) -> None:
    done = csr(
        tmp_path, "init", "--prompts", "p.json", "--images", "here", "--model", "./gone", "--reward-model", "/no"
    )
    for key in ("data.prompts: there is no p.json", "data.images", "model.path", "reward.model"):
        assert f"not there yet: {key}" in done.stderr
    for name in ("p.json", "here", "gone"):
        (tmp_path / name).mkdir()
    words = ["--prompts", "p.json", "--images", "here", "--model", "./gone", "--reward-model", "ViT-B-32:openai"]
    assert csr(tmp_path, "init", "--force", *words).stderr == ""
    assert csr(tmp_path, "init", "--force", "--model", "owner/name", "--prompts", "hf://owner/name").stderr == ""


def test_help_names_every_command(tmp_path: Path) -> None:
    text = csr(tmp_path, "--help").stdout
    commands = (
        "init presets check run stage report ablate evaluate miniature export import push chat up down table seeds "
        "reward"
    )
    for command in commands.split():
        assert command in text


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["run"], "csr init"),
        (["init", "--preset", "best"], "authors-code, paper, steady"),
        (["report"], "csr run"),
        (["ablate", "--only", "nothing"], "no params"),
        (["stage", "generate", "--iteration", "1"], "csr init"),
    ],
)
def test_errors_are_words_and_say_what_to_do(tmp_path: Path, arguments: list[str], part: str) -> None:
    done = csr(tmp_path, *arguments, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert part in done.stderr or (part == "no params" and "no configuration" in done.stderr)


def test_init_does_not_overwrite_unasked(tmp_path: Path) -> None:
    csr(tmp_path, "init")
    done = csr(tmp_path, "init", check=False)
    assert done.returncode == 2
    assert "--force" in done.stderr


def test_sampled_scenes_are_measured_by_the_command_line(tmp_path: Path) -> None:
    """Truthful captions have no hallucination, whatever the scenes; echoing POPE's labels is always right."""
    csr(tmp_path, "miniature", "sample", "--out", "w", "--count", "5")
    references = json.loads((tmp_path / "w" / "captions.json").read_text())["annotations"]
    rows = [json.dumps({"image_id": row["image_id"], "caption": row["caption"]}) for row in references]
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    arguments = ["evaluate", "chair", "--captions", "captions.jsonl", "--instances", "w/instances.json", "--json"]
    chair = json.loads(csr(tmp_path, *arguments).stdout)
    assert (chair["chair_i"]["value"], chair["recall"]["value"]) == (0.0, 1.0)
    questions = [json.loads(line) for line in (tmp_path / "w" / "questions.jsonl").read_text().splitlines()]
    answers = [
        json.dumps({"question_id": q["question_id"], "answer": q["label"], "category": q["category"]})
        for q in questions
    ]
    (tmp_path / "answers.jsonl").write_text("\n".join(answers))
    arguments = ["evaluate", "pope", "--answers", "answers.jsonl", "--questions", "w/questions.jsonl", "--json"]
    assert json.loads(csr(tmp_path, *arguments).stdout)["pope_accuracy"]["value"] == 1.0
