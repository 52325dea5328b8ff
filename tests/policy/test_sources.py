"""Models by name: the revision that is asked for, and what to do where one cannot be had."""

from __future__ import annotations

import shutil
from pathlib import Path

import httpx
import pytest
from huggingface_hub import constants, errors

from csr_core.config import ModelSettings, RewardSettings
from csr_core.errors import InputError
from csr_core.miniature.weights import shipped
from csr_core.policy import load_policy
from csr_core.policy.sources import cached, told
from csr_core.reward.source import not_here
from csr_core.stages.models import policy_files

NAME, COMMITS = "owner/mini", {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with two revisions of the shipped model, in the layout that the hub's client leaves."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--mini"
    (folder / "refs").mkdir(parents=True)
    for revision, commit in COMMITS.items():
        shutil.copytree(shipped("llava"), folder / "snapshots" / commit)
        (folder / "refs" / revision).write_text(commit)
    return folder


def test_the_revision_that_is_asked_for_is_taken(cache: Path) -> None:
    for revision, commit in (("v1", "b" * 40), (None, "a" * 40), ("b" * 40, "b" * 40)):
        settings = ModelSettings(path=NAME, revision=revision, device="cpu")
        assert policy_files(settings) == [cache / "snapshots" / commit]
    # The other one is broken, so that a mistaken choice would be seen.
    (cache / "snapshots" / COMMITS["main"] / "config.json").write_text("{")
    assert load_policy(ModelSettings(path=NAME, revision="v1", device="cpu")).model.num_parameters() > 10**6
    with pytest.raises(InputError):
        load_policy(ModelSettings(path=NAME, device="cpu"))


def test_a_revision_that_is_not_here_stands_for_itself(cache: Path) -> None:
    assert cached(NAME, "v2") is None
    assert policy_files(ModelSettings(path=NAME, revision="v2")) == []


def test_a_model_that_was_not_fetched_says_how_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"hf download owner/other --revision v1.*HF_HOME.*model\.path"):
        load_policy(ModelSettings(path="owner/other", revision="v1", device="cpu"))


@pytest.mark.parametrize(
    ("kind", "status", "parts"),
    [
        (errors.GatedRepoError, 403, ["gated", "https://huggingface.co/owner/mini", "hf auth login"]),
        (errors.RepositoryNotFoundError, 404, ["no model owner/mini", "private"]),
        (errors.RevisionNotFoundError, 404, ["no revision 'v1'", "model.revision"]),
    ],
)
def test_the_hubs_refusals_say_what_to_do(kind: type[Exception], status: int, parts: list[str]) -> None:
    """As transformers raises them: an OSError with the hub's own error as its cause."""
    answer = httpx.Response(status, request=httpx.Request("GET", "https://huggingface.co/owner/mini"))
    wrapped = OSError("cannot load")
    wrapped.__cause__ = kind("refused", response=answer)  # type: ignore[call-arg]
    text = told(NAME, "v1", wrapped)
    assert text is not None
    assert all(part in text for part in parts), text


def test_other_errors_are_left_to_others() -> None:
    assert told(NAME, None, ValueError("something else")) is None


def test_a_reward_model_that_was_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    text = not_here(RewardSettings(model="ViT-L-14-336:openai"))
    assert text is not None
    assert "hf download timm/vit_large_patch14_clip_336.openai" in text
    assert "hf download owner/clip" in str(not_here(RewardSettings(model="hf-hub:owner/clip")))
    assert not_here(RewardSettings()) is None
    assert not_here(RewardSettings(model=str(shipped("clip")))) is None
