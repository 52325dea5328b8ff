"""Embeddings of pictures kept in a file: equal to the last bit, by content and model, and never in the way."""

import hashlib
import sqlite3

import pytest
import torch

from csr_core.config import RewardSettings
from csr_core.miniature.draw import draw
from csr_core.miniature.world import sample_split
from csr_core.reward.embeddings import Embeddings
from csr_core.reward.relevance import load_relevance
from csr_core.reward.scorer import SentenceScorer
from csr_core.stages.models import kept_embeddings

SETTINGS = RewardSettings(device="cpu")
NAMES = [hashlib.sha256(bytes([index])).hexdigest() for index in range(5)]
TEXTS = ["There is a dog.", "The image shows a park."]


@pytest.fixture(scope="module")
def clip():
    return load_relevance(SETTINGS)


@pytest.fixture(scope="module")
def pictures():
    return dict(zip(NAMES, map(draw, sample_split("validation", 5, 0)), strict=True))


def rewards(clip, pictures, kept, names=NAMES):
    scorer = SentenceScorer(SETTINGS, clip, kept)
    for name in names:
        if not scorer.knows(name):
            scorer.add_image(name, pictures[name])
    return scorer.relevances([(name, text) for name in names for text in TEXTS]), scorer.embedded_images


def test_what_is_kept_gives_the_very_same_numbers(clip, pictures, tmp_path):
    plain, _ = rewards(clip, pictures, None)
    kept = kept_embeddings(SETTINGS, tmp_path)
    # Another part of the pictures first, as in a run that was interrupted.
    assert rewards(clip, pictures, kept, NAMES[3:])[1] == 2
    assert rewards(clip, pictures, kept) == (plain, 3)
    assert rewards(clip, {}, kept_embeddings(SETTINGS, tmp_path)) == (plain, 0)


def test_another_models_are_not_looked_at(tmp_path):
    Embeddings(tmp_path / "e", "one").put({NAMES[0]: torch.ones(3)})
    assert Embeddings(tmp_path / "e", "other").get(NAMES) == {}
    assert Embeddings(tmp_path / "e", "one").get(NAMES)[NAMES[0]].tolist() == [1, 1, 1]


def test_a_picture_without_a_digest_is_not_kept(tmp_path):
    kept = Embeddings(tmp_path / "e", "one")
    kept.put({"images/1.png": torch.ones(3)})
    assert kept.get(["images/1.png"]) == {}


def test_a_damaged_file_is_started_anew(clip, pictures, tmp_path):
    file = tmp_path / "e"
    file.write_bytes(b"no database at all" * 100)
    kept = Embeddings(file, "one")
    assert kept.get(NAMES) == {}
    assert rewards(clip, pictures, kept)[1] == 5
    assert set(kept.get(NAMES)) == set(NAMES)


def test_a_file_that_cannot_be_written_is_done_without(clip, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("csr_core.reward.embeddings._WAIT", 0.1)
    kept = Embeddings(tmp_path / "e", "one")
    kept.put({NAMES[0]: torch.ones(3)})
    with sqlite3.connect(tmp_path / "e") as other:
        other.execute("begin exclusive")
        assert rewards(clip, pictures, kept)[1] == 5
    assert set(kept.get(NAMES)) == {NAMES[0]}
