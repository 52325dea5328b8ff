"""Both answers of a pair behind one prompt give what two rows give."""

from pathlib import Path
from typing import Any

import pytest
import torch

from csr_core.dpo import shared, train
from csr_core.dpo.pairs import Pairs, pair_batch, usable_pairs
from csr_core.dpo.shared import SharedPrompts, shared_pair_batch, shares_prompts, visible
from csr_core.policy import PromptInputs, load_policy
from tests.dpo.test_train import MODEL, PIXELS, run
from tests.dpo.world import scene_preferences
from tests.search import families

ANSWERS = ([[10, 11, 12], [13]], [[14], [15, 16]])  # chosen and rejected of two pairs


def test_who_sees_whom() -> None:
    """A prompt of two tokens, the first of them padding; two tokens are chosen, one and padding rejected."""
    mask = visible(torch.tensor([[0, 1]]), torch.tensor([[1, 1]]), torch.tensor([[1, 0]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],  # padding sees itself
        [0, 1, 0, 0, 0, 0],  # the prompt
        [0, 1, 1, 0, 0, 0],  # chosen
        [0, 1, 1, 1, 0, 0],
        [0, 1, 0, 0, 1, 0],  # rejected, which does not see the chosen
        [0, 1, 0, 0, 1, 1],  # padding
    ]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    return usable_pairs(load_policy(MODEL), scene_preferences(tmp_path_factory.mktemp("pairs"), 12), PIXELS)


@pytest.mark.parametrize("more", [{}, {"likelihood_weight": 0.5}, {"gradient_checkpointing": True}], ids=str)
def test_the_same_training_as_with_two_rows(
    pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]
) -> None:
    """TRL's trainer with its own form of batch, and with ours: every loss to 1e-4, and the same adapter."""
    ours = run(load_policy(MODEL), pairs, tmp_path / "ours", epochs=2, **more)
    monkeypatch.setattr(train, "shares_prompts", lambda *_: False)
    theirs = run(load_policy(MODEL), pairs, tmp_path / "theirs", epochs=2, **more)
    assert len(ours.log) == len(theirs.log) == 6
    for one, other in zip(ours.log, theirs.log, strict=True):
        for name in ("loss", "rewards/margins", "logps/chosen", "logps/rejected", "grad_norm"):
            assert one[name] == pytest.approx(other[name], abs=1e-4, rel=1e-4), name
    left, right = (dict(trained.model.named_parameters()) for trained in (ours, theirs))
    assert all(torch.allclose(left[name], right[name], atol=1e-4) for name in left)


def test_each_picture_is_looked_at_once_a_step(pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For both answers, and for the reference; the trials before the training are not counted."""
    policy, seen = load_policy(MODEL), []
    tower = policy.model.model.vision_tower
    tower.register_forward_pre_hook(
        lambda _, args, given: seen.append(len(given.get("pixel_values", *args))), with_kwargs=True
    )
    monkeypatch.setattr(train, "shares_prompts", lambda *_: True)
    monkeypatch.setattr(train, "fitted", lambda policy, collator, rows, asked, lora: asked)
    run(policy, pairs, tmp_path / "work", epochs=1)
    assert seen == [4, 4, 4]


@pytest.mark.parametrize("family", ["qwen", "smolvlm"])
def test_other_families(family: str) -> None:
    """Qwen2.5-VL counts picture positions by rows and columns; SmolVLM packs patches. Tiny, with random weights."""
    policy, samples = families.make(family)
    assert shares_prompts(policy, *batches(samples))


def test_a_model_that_needs_more_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, samples = families.make("qwen", window=4)
    assert not shares_prompts(policy, *batches(samples))
    policy, samples = families.make("qwen")
    right = shared._positions
    monkeypatch.setattr(
        shared, "_positions", lambda *args: right(*args) + torch.arange(2).repeat(100)[: right(*args).shape[-1]]
    )
    assert not shares_prompts(policy, *batches(samples))


def test_features_are_not_kept_where_the_vision_side_is_trained() -> None:
    policy, _ = families.make("qwen")
    assert not SharedPrompts(policy.model)._features  # all of its weights would be trained
    policy.model.requires_grad_(False)
    assert SharedPrompts(policy.model)._features


def batches(samples: list[PromptInputs]) -> tuple[dict[str, Any], dict[str, Any]]:
    return pair_batch(samples[:2], *ANSWERS, 0), shared_pair_batch(samples[:2], *ANSWERS, 0)
