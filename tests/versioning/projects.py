"""Small project folders with made-up outputs, under real Git and DVC."""

import json
import subprocess
import sys
from pathlib import Path

from csr_core.dvcfile import render
from csr_core.layout import Layout
from csr_core.params import load_settings, preset_values, render_params
from tasks.run import Run

STAGES = ("prepare", "generate", "score", "pair", "finetune", "evaluate", "guard")


def project(folder: Path, iterations: int = 1, git: bool = True) -> Run:
    """A folder as `csr init`, `git init` and `dvc init` leave it."""
    (folder / "params.yaml").write_text(
        render_params({**preset_values("steady"), "iterations": iterations}), encoding="utf-8"
    )
    (folder / "dvc.yaml").write_text(render(load_settings(folder / "params.yaml"), folder), encoding="utf-8")
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    (folder / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    if git:
        run(folder, "git", "init", "-q")
    return Run(folder / "params.yaml", layout=Layout(folder))


def make_outputs(layout: Layout, iteration: int, text: str = "made") -> None:
    """What the stages of `iteration` leave, made up."""
    folders = [layout.answers(iteration)]
    if iteration == 0:
        folders.append(layout.splits)
    else:
        folders += [layout.prompts(iteration), layout.candidates(iteration), layout.scores(iteration)]
        folders += [layout.preferences(iteration), layout.model(iteration)]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{folder.name}.parquet").write_text(f"{text} {iteration}")
    metrics = {f"iter_{iteration}": {"test": {"chair_i": len(text) / 100, "recall": 0.9}}}
    judged = (layout.guards(iteration), layout.verdict(iteration)) if iteration else ()
    for file in (layout.metrics(iteration), layout.main_metrics(iteration), *judged):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(metrics))


def names(iteration: int) -> list[str]:
    return ["prepare", "evaluate"] if iteration == 0 else list(STAGES)


def run(folder: Path, *command: str, check: bool = True) -> str:
    """What a command printed, both streams."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def dvc(folder: Path, *arguments: str, check: bool = True) -> str:
    return run(folder, sys.executable, "-m", "dvc", *arguments, check=check)


def commit(folder: Path, tag: str) -> None:
    run(folder, "git", "add", "-A")
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", tag)
    run(folder, "git", "tag", tag)
