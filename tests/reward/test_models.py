"""Reward models of other kinds than the shipped one, and several as one."""

import json
import math

import open_clip
import pytest
import torch
from torch.nn.functional import normalize

from csr_core.config import EvaluateSettings, RewardSettings, Settings
from csr_core.errors import InputError
from csr_core.miniature.draw import draw
from csr_core.miniature.world import sample_split
from csr_core.reward.relevance import load_open_clip, load_relevance, trained_with_quick_gelu
from csr_core.reward.scorer import SentenceScorer
from csr_core.stages.models import reward_files
from tests.reward import open_clips

TEXTS = ["a dog.", "there is a dog, and a cat.", "a very long text of many words, " * 12]


@pytest.fixture(scope="module")
def image():
    return draw(next(iter(sample_split("validation", 1, 0))))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {
        "clip": open_clips.clip(root / "clip"),
        "quick": open_clips.clip(root / "quick", quick_gelu=True),
        "siglip2": open_clips.siglip2(root / "siglip2"),
    }


def relevances(model, image, texts=TEXTS):
    scorer = SentenceScorer(RewardSettings(model=model, device="cpu", relevance_floor=False))
    scorer.add_image("a", image)
    return scorer.relevances([("a", text) for text in texts]), scorer


@pytest.mark.parametrize("kind", ["clip", "quick", "siglip2"])
def test_what_open_clip_itself_gives(folders, image, kind):
    """For texts that fit; each kind with its own tokenizer, context, transform and activation."""
    name = f"local-dir:{folders[kind]}"
    model, transform = open_clip.create_model_from_pretrained(name)
    with torch.no_grad():
        picture = model.eval().encode_image(transform(image)[None], normalize=True)[0]
        words = model.encode_text(open_clip.get_tokenizer(name)(TEXTS[:2]), normalize=True)
    found, scorer = relevances(str(folders[kind]), image)
    assert found[:2] == pytest.approx((100 * words @ picture).tolist(), abs=1e-4)
    assert scorer.split_texts == 1


def test_the_activation_makes_a_difference_and_follows_the_weights(folders, image):
    """OpenAI's and DFN's weights want the approximate GELU, LAION's do not, whatever the shape's own file says."""
    assert relevances(str(folders["clip"]), image)[0] != relevances(str(folders["quick"]), image)[0]
    assert open_clip.get_model_config("ViT-L-14-336").get("quick_gelu", False) is False
    asked = ["ViT-L-14-336:openai", "ViT-L-14-quickgelu:dfn2b", "ViT-B-32:laion2b_s34b_b79k", "ViT-L-14:weights.pt"]
    assert [trained_with_quick_gelu(*name.split(":")) for name in asked] == [True, True, False, False]


def test_an_ensembles_relevance_is_the_mean_of_its_members(folders, image):
    names = [str(folders["clip"]), str(folders["siglip2"]), "miniature"]
    together, scorer = relevances(names, image)
    apart = [relevances(name, image)[0] for name in names]
    assert together == pytest.approx([sum(values) / 3 for values in zip(*apart, strict=True)], abs=1e-4)
    assert scorer.split_texts == 1
    rows, _ = scorer.embedder.embed_texts(TEXTS[:1])
    assert float(rows[0].norm()) == pytest.approx(1)


def test_an_ensembles_files_all_count(folders):
    names = [str(folders["clip"]), "miniature", "ViT-L-14-336:openai"]
    found = reward_files(RewardSettings(model=names))
    assert [path.name for path in found] == ["clip", "clip"]


def test_another_models_tokenizer_is_refused(folders, tmp_path):
    short = open_clips.clip(tmp_path / "short", context=40)
    assert load_open_clip(str(short), "cpu").tokenizer.context_length == 40
    small = open_clips.siglip2(tmp_path / "small", size=20)
    tokenizer = json.loads((folders["siglip2"] / "tokenizer.json").read_text())
    (small / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match=r"writes token \d+ and its text tower knows 20"):
        load_open_clip(str(small), "cpu")


def test_a_model_cannot_watch_itself_nor_be_named_twice():
    with pytest.raises(ValueError, match="cannot watch"):
        Settings(reward=RewardSettings(model=["a", "b"]), evaluate=EvaluateSettings(held_out_model="b"))
    with pytest.raises(ValueError, match="different"):
        RewardSettings(model=["a", "a"])
    with pytest.raises(ValueError, match="different"):
        RewardSettings(model=[])


def test_a_picture_goes_through_each_members_own_transform(folders, image):
    embedder = load_relevance(RewardSettings(model=[str(folders["clip"]), "miniature"], device="cpu"))
    rows = embedder.embed_images(torch.stack([embedder.prepare(image)] * 2))
    single = [load_open_clip(name, "cpu") for name in (str(folders["clip"]), "miniature")]
    parts = [one.embed_images(one.prepare(image)[None])[0] for one in single]
    assert torch.allclose(rows[0], torch.cat(parts) / math.sqrt(2), atol=1e-6)
    assert torch.allclose(rows[0], normalize(rows[0], dim=0), atol=1e-6)
