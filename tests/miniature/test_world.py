"""Scenes, captions and questions of the miniature world, and the dataset folder."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from csr_core.errors import SettingsError
from csr_core.miniature import world, write_split
from csr_core.miniature.draw import SPRITES, draw

LAYOUT = {"images", "prompts.jsonl", "instances.json", "captions.json", "questions.jsonl"}


def contents(scene: world.Scene) -> tuple[object, ...]:
    """What a scene looks like, apart from where it comes from."""
    return scene.place, scene.backdrop, scene.objects


def digests(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def lines(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_scene_depends_on_its_four_numbers_alone():
    alone = world.sample_scene("train", seed=3, index=5, iteration=2)
    among = list(world.sample_split("train", 8, seed=3, iteration=2))[5]
    assert alone == among
    assert world.pretraining_caption(alone) == world.pretraining_caption(among)
    assert world.questions(alone, 6) == world.questions(among, 6)


def test_splits_seeds_and_iterations_share_no_scene():
    streams = [(split, seed, iteration) for split in world.SPLITS for seed in (0, 1) for iteration in (0, 1)]
    seen = Counter(contents(s) for split, seed, k in streams for s in world.sample_split(split, 60, seed, k))
    assert max(seen.values()) == 1


def test_unknown_split_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="unknown split 'tset'"):
        world.sample_scene("tset", 0, 0)
    with pytest.raises(SettingsError, match="unknown split 'pretraining'"):
        write_split(tmp_path / "x", "pretraining", 1, 0)


def test_objects_stay_inside_and_apart():
    for scene in world.sample_split("validation", 200, 0):
        assert world.MIN_OBJECTS <= len(scene.objects) <= world.MAX_OBJECTS
        assert len(scene.names) == len(scene.objects)
        for placed in scene.objects:
            assert min(placed.x, placed.y) >= 0
            assert max(placed.x, placed.y) + placed.size <= world.IMAGE_SIZE


def companion_rates(split: str) -> tuple[float, float]:
    """How often a companion is in its own place, beside its trigger and without it."""
    beside, without = [], []
    for scene in world.sample_split(split, 1500, 0):
        for trigger, companion in world.PAIRS[scene.place].items():
            (beside if trigger in scene.names else without).append(companion in scene.names)
    return sum(beside) / len(beside), sum(without) / len(without)


def test_co_occurrences_are_turned_around_in_the_shifted_split():
    beside, without = companion_rates("validation")
    assert beside > 0.3
    assert without < 0.2
    beside, without = companion_rates("shifted")
    assert beside < 0.2
    assert without > 0.3


def test_captions_name_what_is_there_and_the_prior_adds_companions_alone():
    invited = named = 0
    for scene in world.sample_split("pretraining", 1000, 0):
        said = world.reference_caption(scene).split(". ")
        assert len(said) == len(scene.objects) + 1
        caption = world.pretraining_caption(scene)
        extra = {name for name in world.OBJECTS if world.object_sentence(name) in caption} - scene.names
        absent = set(world.absent_companions(scene))
        assert extra <= absent
        assert all(world.object_sentence(name) in caption for name in scene.names)
        invited += len(absent)
        named += len(extra)
    assert named / invited == pytest.approx(world.P_HALLUCINATE, abs=0.04)


def test_questions_are_balanced_true_and_adversarial_ones_ask_for_the_companion():
    for scene in world.sample_split("validation", 200, 0):
        asked = world.questions(scene, 6)
        assert [q.category for q in asked] == [c for c in world.CATEGORIES for _ in range(2)]
        assert [q.present for q in asked] == [True, False] * 3
        assert all((q.name in scene.names) == q.present for q in asked)
        absent = world.absent_companions(scene)
        assert not absent or asked[5].name in absent
    assert world.Question("umbrella", True, "random").text == "Is there an umbrella in the image?"


def test_every_object_has_a_sprite_and_a_mirrored_picture_differs():
    assert {file.stem.replace("_", " ") for file in SPRITES.glob("*.png")} == set(world.OBJECTS)
    assert len(world.OBJECTS) == 22
    picture = draw(world.sample_scene("validation", 0, 0))
    assert (picture.size, picture.mode) == ((96, 96), "RGB")


def test_written_split_has_the_layout_of_any_dataset(tmp_path):
    summary = write_split(tmp_path / "val", "validation", 12, seed=4, questions_per_image=6)
    folder = tmp_path / "val"
    assert {path.name for path in folder.iterdir()} == LAYOUT
    assert [path.name for path in tmp_path.iterdir()] == ["val"]
    instances = json.loads((folder / "instances.json").read_text())
    names = {category["id"]: category["name"] for category in instances["categories"]}
    files = {image["id"]: image["file_name"] for image in instances["images"]}
    assert sorted(names.values()) == sorted(world.OBJECTS)
    assert instances["info"]["companions"] == world.COMPANIONS
    assert len(instances["annotations"]) == summary["objects"]
    scenes = list(world.sample_split("validation", 12, 4))
    for scene in scenes:
        there = {names[a["category_id"]] for a in instances["annotations"] if a["image_id"] == scene.index}
        assert there == scene.names
    prompts = lines(folder / "prompts.jsonl")
    assert [set(row) for row in prompts] == [{"id", "image", "prompt"}] * 12
    for row in prompts:
        assert row["image"] == "images/" + files[int(str(row["id"]))]
        assert Image.open(folder / str(row["image"])).size == (96, 96)
    captions = json.loads((folder / "captions.json").read_text())["annotations"]
    assert [c["image_id"] for c in captions] == list(files)
    asked = lines(folder / "questions.jsonl")
    assert [q["question_id"] for q in asked] == list(range(1, summary["questions"] + 1))
    assert {q["image"] for q in asked} == set(files.values())
    assert Counter(q["label"] for q in asked) == {"yes": 36, "no": 36}
    assert Counter(q["category"] for q in asked) == dict.fromkeys(world.CATEGORIES, 24)


def test_written_split_is_the_same_bytes_again_and_replaces_what_was_there(tmp_path):
    write_split(tmp_path / "a", "train", 4, seed=0, iteration=2)
    write_split(tmp_path / "b", "train", 9, seed=1, iteration=3)
    first, other = digests(tmp_path / "a"), digests(tmp_path / "b")
    write_split(tmp_path / "b", "train", 4, seed=0, iteration=2)
    assert first == digests(tmp_path / "b")
    assert first["images/0000.png"] != other["images/0000.png"]
