"""Loading with open_clip, long texts, and the scorer's caches, on the shipped miniature CLIP."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from csr_core.config import RewardSettings
from csr_core.errors import InputError
from csr_core.miniature.draw import draw
from csr_core.miniature.weights import shipped
from csr_core.miniature.world import absent_companions, object_sentence, sample_split
from csr_core.reward.chunks import split_to_fit
from csr_core.reward.relevance import OpenClip, load_relevance
from csr_core.reward.scorer import SentenceScorer


@pytest.fixture(scope="module")
def clip():
    return load_relevance(RewardSettings(device="cpu"))


@pytest.fixture
def scorer(clip):
    return SentenceScorer(RewardSettings(device="cpu"), clip)


@pytest.fixture(scope="module")
def scenes():
    return list(sample_split("validation", 12, 0))


SENTENCES = [" There is a dog.", "There is a cat.", " The image shows a park.", "There is a dog.", "There is a pizza."]


def test_present_objects_are_told_from_absent_companions(scorer, scenes) -> None:
    right = 0
    pairs = [
        (scene, absent, present) for scene in scenes for absent in absent_companions(scene) for present in scene.names
    ]
    for number, (scene, absent, present) in enumerate(pairs):
        scorer.add_image(str(number), draw(scene))
        low, high = scorer.relevances([(str(number), object_sentence(name)) for name in (absent, present)])
        right += high > low
    assert len(pairs) > 10
    assert right / len(pairs) > 0.9


def test_relevance_is_what_open_clip_itself_gives(clip, scorer, scenes) -> None:
    image = draw(scenes[0])
    scorer.add_image("a", image)
    with torch.no_grad():
        pixels = clip.transform(image)[None]
        picture = clip.model.encode_image(pixels, normalize=True)
        words = clip.model.encode_text(clip.tokenizer(SENTENCES), normalize=True)
    expected = (100 * (words @ picture[0])).clamp_min(0).tolist()
    assert scorer.relevances([("a", text) for text in SENTENCES]) == pytest.approx(expected, abs=1e-4)


def test_each_picture_and_each_sentence_is_embedded_once(scorer, scenes) -> None:
    images = {str(index): draw(scene) for index, scene in enumerate(scenes[:3])}
    nodes = [(name, text, -3.0, 5) for name in images for text in SENTENCES]
    first = scorer.node_rewards(images, nodes)
    assert (scorer.embedded_images, scorer.embedded_texts) == (3, 4)
    assert scorer.node_rewards({}, nodes) == first
    assert (scorer.embedded_images, scorer.embedded_texts) == (3, 4)
    assert first[0] == first[3]  # equal but for white space


@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_batch_size_does_not_change_rewards(clip, scenes, batch_size) -> None:
    images = {str(index): draw(scene) for index, scene in enumerate(scenes)}
    nodes = [(name, object_sentence(other), -2.0, 5) for name in images for other in sorted(scenes[0].names)]
    rewards = [
        SentenceScorer(RewardSettings(device="cpu"), replace(clip, batch_size=size)).node_rewards(images, nodes)
        for size in (batch_size, 7, None)
    ]
    assert rewards[0] == pytest.approx(rewards[1], rel=1e-5, abs=1e-5)
    assert rewards[0] == pytest.approx(rewards[2], rel=1e-5, abs=1e-5)


def test_reward_is_equation_4_of_relevance_and_probability(scorer, scenes) -> None:
    scorer.add_image("a", draw(scenes[0]))
    seen = scorer.relevances([("a", text) for text in SENTENCES])
    rewards = scorer.node_rewards({}, [("a", text, -0.5, 5) for text in SENTENCES])
    assert rewards == pytest.approx([0.9 * value + 0.1 * 0.60653066 for value in seen])


def test_prompts_of_one_call_do_not_touch_each_other(clip, scenes) -> None:
    settings = RewardSettings(device="cpu", likelihood_scale="standardised", image_weight=0.5)
    images = {str(index): draw(scene) for index, scene in enumerate(scenes[:2])}
    nodes = [(name, text, -0.5 * place, 5) for name in images for place, text in enumerate(SENTENCES)]
    together = SentenceScorer(settings, clip).node_rewards(images, nodes)
    alone = SentenceScorer(settings, clip)
    apart = alone.node_rewards(images, nodes[:5]) + alone.node_rewards({}, nodes[5:])
    assert together == pytest.approx(apart, rel=1e-5, abs=1e-5)


def test_ending_without_text_is_neither_best_nor_worst(scorer, scenes) -> None:
    nodes = [("a", SENTENCES[0], -1.0, 5), ("a", "", -0.1, 1), ("a", SENTENCES[1], -1.0, 5)]
    first, ending, last = scorer.node_rewards({"a": draw(scenes[0])}, nodes)
    assert ending == pytest.approx((first + last) / 2)
    assert scorer.node_rewards({"b": draw(scenes[1])}, [("b", " ", -0.1, 1)]) == [0.0]


def test_repeats_earn_nothing_where_the_path_is_given(clip, scenes) -> None:
    settings = RewardSettings(device="cpu", repeats_earn_nothing=True)
    nodes = [("a", "There is a dog.", -1.0, 5), ("a", "There is a cat.", -1.0, 5)]
    earlier = [[" The image shows a park.", " there is a dog."], []]
    rewards = SentenceScorer(settings, clip).node_rewards({"a": draw(scenes[0])}, nodes, earlier=earlier)
    plain = SentenceScorer(RewardSettings(device="cpu"), clip).node_rewards({"a": draw(scenes[0])}, nodes)
    assert rewards == [0.0, plain[1]]
    assert plain[0] > 0.0


def test_beam_scores_are_asked_for(clip, scenes) -> None:
    scorer = SentenceScorer(RewardSettings(device="cpu", likelihood="beam_score", image_weight=0.0), clip)
    nodes = [("a", "There is a dog.", -1.0, 5)]
    with pytest.raises(InputError, match="keep_by"):
        scorer.node_rewards({"a": draw(scenes[0])}, nodes)
    assert scorer.node_rewards({"a": draw(scenes[0])}, nodes, beam_scores=[-0.7]) == pytest.approx([-0.7])


def test_long_text_is_scored_whole_and_counted(clip, scorer, scenes) -> None:
    scorer.add_image("a", draw(scenes[0]))
    halves = ["There is a dog. " * 4 + "There is a cat.", "There is a pizza. " * 3 + "There is a boat."]
    long = " ".join(halves)
    chunks = split_to_fit(long, clip._fitter.fits)
    assert len(chunks) > 1
    assert " ".join(chunks) == long
    scorer.relevances([("a", text) for text in [*chunks, long]])
    unfloored = SentenceScorer(RewardSettings(device="cpu", relevance_floor=False), clip)
    unfloored.add_image("a", draw(scenes[0]))
    *parts, whole = unfloored.relevances([("a", text) for text in [*chunks, long]])
    assert whole == pytest.approx(sum(parts) / len(parts), abs=1e-4)
    assert scorer.split_texts == 1
    other_end = long.replace("boat", "clock")
    assert unfloored.relevances([("a", other_end)])[0] != pytest.approx(whole, abs=1e-2)  # the end is read


def test_fitting_agrees_with_the_tokenizer_at_the_border(clip) -> None:
    context = clip.tokenizer.context_length
    words = ["dog"] * (2 * context)
    longest = max(n for n in range(1, 2 * context) if clip._fitter.fits(" ".join(words[:n])))
    special = int((clip.tokenizer([""], context_length=8)[0] != clip._fitter.padding).sum())
    per_word = int((clip.tokenizer([" ".join(words[:3])])[0] != clip._fitter.padding).sum() - special) / 3
    assert longest * per_word + special <= context < (longest + 1) * per_word + special


def test_splitting_prefers_clauses_then_words_then_characters() -> None:
    def fits(text: str) -> bool:
        return len(text) <= 20

    assert split_to_fit("a dog, and a cat runs here now", fits) == ["a dog, and a cat", "runs here now"]
    assert split_to_fit("there is a dog, two cats run", fits) == ["there is a dog,", "two cats run"]
    assert split_to_fit("x" * 33 + " y", fits) == ["x" * 16, "x" * 17 + " y"]
    assert split_to_fit("short", fits) == ["short"]


def _copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped("clip"), tmp_path / "clip"))


def test_directory_and_local_dir_spelling_load_the_same(tmp_path, clip) -> None:
    folder = _copy(tmp_path)
    for name in (str(folder), f"local-dir:{folder}"):
        other = load_relevance(RewardSettings(model=name, device="cpu"))
        assert torch.equal(other.embed_texts(["There is a dog."])[0], clip.embed_texts(["There is a dog."])[0])


@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ("open_clip_config.json", "open_clip_config.json is missing"),
        ("open_clip_model.safetensors", "no weights"),
        ("tokenizer*", "tokenizer.json"),
    ],
)
def test_incomplete_directory_is_named(tmp_path, lacking, said) -> None:
    folder = _copy(tmp_path)
    for file in folder.glob(lacking):
        file.unlink()
    with pytest.raises(InputError, match=said):
        load_relevance(RewardSettings(model=str(folder), device="cpu"))


def test_silently_wrong_tokenizer_is_refused(tmp_path) -> None:
    folder = _copy(tmp_path)
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = ""
    file.write_text(json.dumps(config))
    with pytest.raises(InputError, match="hf_tokenizer_name"):
        load_relevance(RewardSettings(model=str(folder), device="cpu"))


def test_truncated_weights_are_an_input_error(tmp_path) -> None:
    folder = _copy(tmp_path)
    weights = folder / "open_clip_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(InputError, match="cannot load"):
        load_relevance(RewardSettings(model=str(folder), device="cpu"))


@pytest.mark.parametrize(
    ("name", "said"),
    [("ViT-B-32", "after a colon"), ("no/such/folder", "no directory"), ("No-Such-Model:openai", "cannot load")],
)
def test_unknown_names_teach(name, said) -> None:
    with pytest.raises(InputError, match=said):
        load_relevance(RewardSettings(model=name, device="cpu"))


def test_forgotten_picture_is_a_key_error(scorer) -> None:
    with pytest.raises(KeyError):
        scorer.relevances([("never given", "There is a dog.")])


def test_grey_and_odd_shapes_embed(scorer) -> None:
    scorer.add_image("wide", Image.new("L", (300, 20), 128).convert("RGB"))
    assert len(scorer.relevances([("wide", "There is a dog.")])) == 1


TOWER = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VISION = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}


@pytest.mark.parametrize(
    ("custom", "more", "stops"),
    [
        (False, {}, True),  # OpenAI's CLIP
        (True, {}, True),  # the same tower as a module of its own
        (True, {"no_causal_mask": True, "pool_type": "last"}, False),  # SigLIP's
    ],
)
def test_texts_are_computed_at_their_own_length_where_towers_allow_it(clip, custom, more, stops) -> None:
    from open_clip.model import CLIP, CustomTextCLIP
    from open_clip.tokenizer import SimpleTokenizer

    torch.manual_seed(0)
    model = (CustomTextCLIP if custom else CLIP)(16, VISION, {**TOWER, **more}).eval()
    own = OpenClip(model, clip.transform, SimpleTokenizer(context_length=32), torch.device("cpu"))
    lengths = []
    tower = model.text.transformer if custom else model.transformer
    tower.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    texts = ["a dog", "a dog and a cat on the red mat beside the door", "a dog, a cat", "a"]
    rows, _ = own.embed_texts(texts)
    expected = model.encode_text(own.tokenizer(texts), normalize=True)
    assert torch.allclose(rows, expected, atol=1e-6)
    assert (min(lengths[2:]) < 32) == stops  # the first two are the trial
