"""A stage that ran out of memory takes smaller batches from then on, until its settings change."""

from pathlib import Path

import pytest
import torch

from csr_core.layout import Layout
from csr_core.params import load_settings, preset_values, render_params
from csr_core.stages import __main__ as stages
from csr_core.stages.memory import halved_before, note_halved
from csr_core.stages.plan import StageCall


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(render_params(preset_values("steady")))
    return tmp_path


def test_what_was_noted_holds_for_the_same_settings(folder: Path) -> None:
    settings, layout = load_settings(Path("params.yaml")), Layout()
    assert halved_before("generate", settings, layout) == 0
    note_halved("generate", settings, layout, 2)
    note_halved("finetune", settings, layout, 1)
    assert (halved_before("generate", settings, layout), halved_before("finetune", settings, layout)) == (2, 1)
    narrower = load_settings(Path("params.yaml"), ["generate.width=4"])
    assert (halved_before("generate", narrower, layout), halved_before("finetune", narrower, layout)) == (0, 1)
    (folder / ".csr" / "memory.json").write_text("{")
    assert halved_before("generate", settings, layout) == 0


def test_the_next_run_begins_with_what_fitted(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The real process, with a stage that asks for more than any machine has unless it is halved twice."""
    asked: list[int] = []

    def planned(name, iteration, settings, layout, halved=0):
        def run(out: Path) -> dict:
            asked.append(halved)
            torch.empty(2**55 if halved < 2 else 1, dtype=torch.uint8)
            return {}

        return StageCall(name, iteration, (), {}, {}, run)

    monkeypatch.setattr(stages, "plan", planned)
    order = ["finetune", "--iteration", "1"]
    codes = [stages.main([*order, "--halved", str(attempt)]) for attempt in range(3)]
    assert (codes, asked) == ([3, 3, 0], [0, 1, 2])
    assert "finetune.batch_size" in capsys.readouterr().err
    Path(".csr/stamps/finetune@1.json").unlink()
    assert (stages.main(order), asked[-1]) == (0, 2)
