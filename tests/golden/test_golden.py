"""The golden comparison passes, and notices one changed number and a changed rule."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import csr_core.stages.score
from tests.golden.compare import compare
from tests.golden.tally import Tally, difference

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "../shared/data/golden"
needs_golden = pytest.mark.skipif(
    not GOLDEN.is_dir(),
    reason="needs outputs of the authors' code in ../shared/data/golden, which are not part of this repository",
)


def test_difference_sees_fractions_integers_and_shapes():
    assert difference({"a": [1, 0.5]}, {"a": [1, 0.50005]}) is None
    assert difference({"a": [1, 0.5]}, {"a": [1, 0.5002]}) == "a: [1] 0.5, expected 0.5002"
    assert difference([1], [2]) is not None
    assert difference(None, 0.5) is not None
    assert difference(float("nan"), 0.5) is not None
    assert difference(True, 1) is not None
    assert difference(torch.zeros(2), torch.zeros(3)) is not None
    assert difference(torch.tensor([float("nan")]), torch.zeros(1)) is not None


def test_tally_counts_by_kind():
    tally = Tally()
    tally.check("scores", "a", 1.0, 1.0)
    tally.check("scores", "b", 1.0, 2.0)
    assert (tally.cases, tally.mismatches) == (2, 1)
    assert re.search(r"^scores +2 +1$", tally.table(), re.MULTILINE)
    assert "scores, b: 1.0, expected 2.0" in tally.table()


@needs_golden
def test_the_command_passes_on_the_golden_data():
    command = [sys.executable, "-m", "tests.golden", str(GOLDEN)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = {line[:28].strip(): line.split()[-2:] for line in done.stdout.splitlines()}
    assert counts["beam search rows"] == ["65", "0"]
    assert counts["chosen and rejected"] == ["10", "0"]
    assert counts["all"][1] == "0"


@pytest.fixture
def copied(tmp_path):
    """A copy of the golden folder that may be changed."""
    folder = tmp_path / "golden"
    shutil.copytree(GOLDEN, folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


def _tree_node(data):
    return data["results"][3]["nodes"][8]


CHANGES = {
    "a beam score": ("gbs.json", lambda data: data["cases"][40]["sequences_scores"], 1, 0.001),
    "a beam token": ("gbs.json", lambda data: data["cases"][12]["rows"][2], 0, 1),
    "a node's score": ("trees_ids.json", _tree_node, "score", 0.001),
    "a CLIP score": ("trees_ids.json", _tree_node, "clip_score", 0.001),
    "a rank": ("trees_ids.json", _tree_node, "clip_rank", 0.2),
    "the chosen path": ("trees_ids.json", lambda data: data["results"][4], "chosen_path", 1),
}


@needs_golden
@pytest.mark.parametrize("name", CHANGES)
def test_one_changed_number_is_noticed(copied, name):
    file, place, key, amount = CHANGES[name]
    data = json.loads((copied / file).read_text())
    place(data)[key] += amount
    (copied / file).write_text(json.dumps(data))
    assert compare(copied).mismatches >= 1


@needs_golden
def test_a_changed_tensor_is_noticed(copied):
    tensors = load_file(copied / "tensors.safetensors")
    tensors["5.pixel_values"][0, 1, 30, 7] += 0.01
    save_file(tensors, copied / "tensors.safetensors")
    assert dict(compare(copied).wrong) == {"pixels": 1}


@needs_golden
@pytest.mark.parametrize(
    "changes",
    [
        {"generate.keep_best": 2, "generate.keep_worst": 2},
        {"generate.keep_best": 2, "generate.keep_worst": 1},
        {"generate.diversity_penalty": 2.9},
    ],
)
def test_another_search_is_noticed(changes):
    wrong = compare(GOLDEN, changes).wrong
    assert wrong["tree structure"] or wrong["node scores"]


@needs_golden
def test_another_rank_rule_is_noticed(monkeypatch):
    right = csr_core.stages.score.sibling_ranks
    monkeypatch.setattr(
        csr_core.stages.score, "sibling_ranks", lambda values: [rank - 1 / len(values) for rank in right(values)]
    )
    wrong = compare(GOLDEN).wrong
    assert wrong["ranks"] > 100
    assert not wrong["tree structure"]
