"""The whole pipeline on the miniature, made smaller still."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from csr_core.config import Settings
from csr_core.layout import Layout
from csr_core.params import load_settings, preset_values, render_params
from csr_core.records import PREFERENCES, read_table

SMALL = [
    "iterations=1",
    "data.per_iteration=12",
    "generate.shard_size=4",
    "generate.max_sentences=4",
    "finetune.epochs=1",
    "finetune.batch_size=4",
    "evaluate.splits.test.count=10",
    "evaluate.splits.shifted.count=6",
    "evaluate.bootstrap=100",
]


def csr(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """The real command line, in `folder`."""
    if find_spec("prefect") is None:
        pytest.skip("the command line needs Prefect, MLflow and DVC: not in an environment of the method alone")
    environment = {**os.environ, "PREFECT_HOME": str(folder / ".prefect")}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def sets(changes: list[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def small_settings(folder: Path, *changes: str) -> Settings:
    path = folder / "small.yaml"
    path.write_text(render_params(preset_values("steady")))
    return load_settings(path, [*SMALL, *changes])


def pairs(root: Path, iteration: int = 1) -> list[dict[str, Any]]:
    """The preferences of an iteration without what depends on the folder's name; numbers rounded."""
    rows = read_table(Layout(root).preferences(iteration), PREFERENCES)
    numbers = ("chosen_reward", "rejected_reward", "margin")
    return [{**row, "images": None, **{name: round(row[name], 3) for name in numbers}} for row in rows]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `csr run` has ended."""
    folder = tmp_path_factory.mktemp("finished")
    csr(folder, "init", "--preset", "steady")
    csr(folder, "run", *sets(SMALL))
    return folder
