"""A run in a folder of its own can be looked at and given away from where it was started, with its own settings."""

from pathlib import Path

import pytest

from csr_core.params import load_settings
from tests.e2e.conftest import SMALL, csr, sets

CHANGES = sets([*SMALL, "reward.image_weight=0.5"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run with another weight has ended in runs/half; params.yaml says 0.9."""
    folder = tmp_path_factory.mktemp("root")
    csr(folder, "init", "--preset", "steady")
    csr(folder, "run", "--root", "runs/half", *CHANGES)
    return folder


def test_its_settings_are_there(folder: Path) -> None:
    left = load_settings(folder / "runs" / "half" / "params.yaml")
    assert left == load_settings(folder / "params.yaml", CHANGES[1::2])
    assert left.reward.image_weight == 0.5


def test_it_can_be_used(folder: Path) -> None:
    root = ("--root", "runs/half")
    picture = "runs/half/data/splits/test/images/0000.png"
    assert "base" in csr(folder, "chat", *root, picture).stdout
    assert "CHAIR_i" in csr(folder, "table", *root).stdout
    csr(folder, "export", "model", *root, "--iteration", "1", "--out", "shared")
    card = (folder / "shared" / "README.md").read_text()
    assert "| reward.image_weight | 0.5 |" in card
    csr(folder, "export", "model", *root, "--params", "params.yaml", "--iteration", "1", "--out", "again")
    assert (folder / "again" / "README.md").read_text() == card  # whatever a file says
    csr(folder, "export", "preferences", *root, "--iteration", "1", "--format", "authors", "--out", "pairs")
    assert (folder / "pairs" / "preferences.json").is_file()


def test_run_again_it_is_up_to_date(folder: Path) -> None:
    done = csr(folder, "run", "--root", "runs/half", *CHANGES)
    assert "all 9 stages were up to date" in done.stdout
    assert "stays" not in done.stderr
