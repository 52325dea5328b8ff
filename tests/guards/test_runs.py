"""Whole runs made to misbehave, on the miniature: which guards fire, and what becomes of the run."""

import json
from pathlib import Path

import pytest

from csr_core.errors import SettingsError
from csr_core.layout import Layout
from csr_core.loop import iterate
from csr_core.params import load_settings, preset_values, render_params
from csr_core.stages.plan import plan, start_model
from tests.reward import open_clips

SMALL = [
    'evaluate.splits={test: {folder: "miniature:test", count: 60}}', "evaluate.bootstrap=200", "run.workers=1",
    "generate.shard_size=250", "evaluate.twins={}",
]  # fmt: skip


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *changes: str, stop_on: str = "[]"):
    """Run the iterations in `folder`; returns the settings and the layout."""
    monkeypatch.chdir(folder)
    Path("params.yaml").write_text(render_params(preset_values("steady")))
    settings = load_settings(Path("params.yaml"), [*changes, *SMALL, f"guards.stop_on={stop_on}"])
    iterate(settings, Layout())
    return settings, Layout()


def fired(layout: Layout, iteration: int) -> set[str]:
    return {one["guard"] for one in json.loads(layout.guards(iteration).read_text()) if one["fired"]}


def test_a_reward_that_likes_short_answers_ends_the_run(tmp_path, monkeypatch) -> None:
    """The paper's preset with the mean over sentences: what is said least is wrong least, and the answers shrink."""
    changes = ("preset=paper", "pair.path_score=mean", "iterations=3", "data.per_iteration=120")
    settings, layout = run(tmp_path, monkeypatch, *changes, stop_on="[shorter, reward_up_recall_down]")
    last = max(k for k in (1, 2, 3) if layout.metrics(k).is_file())
    assert fired(layout, last) >= {"reward_up_recall_down"}
    assert last < 3
    assert json.loads(layout.verdict(last).read_text()) == {"stopped": True}
    assert layout.model(last).is_dir()  # kept, and marked
    with pytest.raises(SettingsError, match=f"a guard stopped iteration {last}"):
        plan("generate", last + 1, settings, layout)
    # The next iteration would start from the last good one, if that is asked for.
    back = settings.model_copy(update={"guards": settings.guards.model_copy(update={"after_stop": "go_back"})})
    good = layout.model(last - 1) if last > 1 else None
    assert start_model(last + 1, back, layout) == good
    assert plan("generate", last + 1, back, layout).label == f"generate@{last + 1}"


def test_a_learning_rate_far_too_high(tmp_path, monkeypatch) -> None:
    """Thirty times the miniature's, without the likelihood term: the model forgets how to write."""
    changes = ("finetune.learning_rate=0.02", "finetune.likelihood_weight=0", "iterations=2", "data.per_iteration=150")
    _, layout = run(tmp_path, monkeypatch, *changes)
    found = fired(layout, 1) | fired(layout, 2)
    assert found >= {"longer", "repetitive", "truncation", "perplexity", "kl", "both_falling"}


def test_a_reward_model_that_knows_nothing(tmp_path, monkeypatch) -> None:
    """A CLIP with random weights: its favourite sentences are said of every picture."""
    blind = open_clips.clip(tmp_path / "clip")
    _, layout = run(
        tmp_path, monkeypatch, "preset=paper", "pair.path_score=mean", "reward.image_weight=1", f"reward.model={blind}",
        "generate.max_sentences=2", "finetune.likelihood_weight=20",
        "finetune.learning_rate=0.002", "finetune.epochs=10", "data.per_iteration=80", "iterations=3",
    )  # fmt: skip
    assert fired(layout, 1) >= {"reward_up_recall_down", "shorter", "answer_variety"}
    assert "candidate_variety" in fired(layout, 2) | fired(layout, 3)


def test_another_model_sees_that_the_reward_is_fooled(tmp_path, monkeypatch) -> None:
    """The sum of what a CLIP with random weights says: answers grow by what it likes and the shipped one does not."""
    blind = open_clips.clip(tmp_path / "clip")
    _, layout = run(
        tmp_path, monkeypatch, "preset=paper", f"reward.model={blind}", "evaluate.held_out_model=miniature",
        "finetune.epochs=4", "data.per_iteration=150", "iterations=1",
    )  # fmt: skip
    assert "reward_up_held_out_down" in fired(layout, 1)


def test_a_few_pairs_learnt_by_heart(tmp_path, monkeypatch) -> None:
    changes = ("finetune.learning_rate=0.002", "finetune.epochs=20", "finetune.held_out_share=0.2", "iterations=1")
    _, layout = run(tmp_path, monkeypatch, *changes, "data.per_iteration=60")
    assert "training_gap" in fired(layout, 1)
