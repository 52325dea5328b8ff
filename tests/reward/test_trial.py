"""The reward model on trial: pairs counted by hand, sentences from annotations, and who is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from csr_core.checks import check
from csr_core.config import RewardSettings, Settings
from csr_core.errors import InputError
from csr_core.evaluation.sources import Annotations
from csr_core.evaluation.statistics import Interval
from csr_core.images import open_image
from csr_core.miniature import clip, gates, world
from csr_core.reward.claims import Claim, claims
from csr_core.reward.scorer import SentenceScorer
from csr_core.reward.trial import Bar, Trial, accuracies, length_bin, objections, trial_items
from csr_core.reward.trial_data import annotated_data, drawn_data, find_data, try_model
from csr_core.reward.verdict import is_due, kept_trial, short_trial
from tests.e2e.conftest import csr

COCO = Path(__file__).parents[3] / "shared" / "data" / "coco"
needs_photos = pytest.mark.skipif(not COCO.is_dir(), reason=f"the COCO photos are not at {COCO}")


@pytest.fixture(scope="module")
def weak(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP that was trained for too short a time: 93 % over all absent objects, 80 % over absent companions."""
    model, config = clip.train(seed=0, steps=150, progress=lambda line: None)
    folder = tmp_path_factory.mktemp("weak")
    clip.save(model, config, folder)
    return folder


def by_hand() -> tuple[list[Claim], list[tuple[float, float]]]:
    """Four decisive pairs of two pictures and two others, with relevances."""
    made = [
        (Claim("a", "There is a dog.", "There is a cat.", "object", ("dog", "cat")), (30.0, 10.0)),  # right
        (Claim("a", "There is a dog.", "There is a ball.", "companion", ("dog", "ball")), (30.0, 31.0)),  # wrong
        (Claim("b", "There is a bus.", "There is a cat.", "object", ("bus", "cat")), (0.0, 0.0)),  # a tie
        (Claim("b", "There is a bus.", "There is a bicycle.", "companion", ("bus", "bicycle")), (9.0, 8.0)),  # right
        (Claim("b", "The image shows a wide and busy street.", "A park.", "place"), (1.0, 2.0)),  # wrong
        (Claim("a", "There are two dogs.", "There are three dogs.", "count", ("dog",)), (1.0, math.nan)),  # no number
    ]
    return [claim for claim, _ in made], [pair for _, pair in made]


def test_accuracies_are_those_counted_by_hand() -> None:
    found = accuracies(trial_items(*by_hand()), resamples=100)
    assert {name: (figure.value, figure.n) for name, figure in found.items()} == {
        "overall": (2.5 / 4, 4),  # neither the place nor the count is in it
        "kind: companion": (0.5, 2),
        "kind: count": (0.0, 1),
        "kind: object": (0.75, 2),
        "kind: place": (0.0, 1),
        "length: 1-5 words": (2.5 / 5, 5),
        "length: 6-8 words": (0.0, 1),
        "object: ball": (0.0, 1),
        "object: dog": (0.5, 2),
        "object: bus": (0.75, 2),
        "object: cat": (0.75, 2),
        "object: bicycle": (1.0, 1),
    }
    assert next(name for name in found if name.startswith("object")) == "object: ball"  # the worst first


def test_the_interval_is_over_pictures_not_over_pairs() -> None:
    """All pairs of a picture right or all wrong: copies of the pairs add nothing to what is known."""
    made = [Claim(str(image), f"{pair}", "", "object") for image in range(20) for pair in range(50)]
    values = [(1.0 if int(claim.image) < 10 else -1.0, 0.0) for claim in made]
    overall = accuracies(trial_items(made, values))["overall"]
    assert overall.value == 0.5
    assert overall.high - overall.low > 0.3  # about 0.06 were the 1000 pairs independent


@pytest.mark.parametrize(("words", "name"), [(1, "1-5"), (5, "1-5"), (6, "6-8"), (11, "9-11"), (12, "12"), (40, "12")])
def test_bins_of_sentence_length(words: int, name: str) -> None:
    assert length_bin(" ".join(["word"] * words)).startswith(f"{name} words")


def figures(overall: tuple[float, float], companion: tuple[float, float] | None = None) -> dict[str, Interval]:
    found = {"overall": Interval(*overall, 1.0, 10), "kind: left or right": Interval(0.5, 0.4, 0.6, 10)}
    return found | ({"kind: companion": Interval(*companion, 1.0, 10)} if companion else {})


@pytest.mark.parametrize(
    ("overall", "companion", "lines"),
    [
        ((0.95, 0.91), (0.95, 0.91), 0),
        ((0.95, 0.90), None, 0),
        ((0.95, 0.89), (0.95, 0.91), 1),
        ((0.95, 0.91), (0.81, 0.77), 1),
        ((0.50, 0.45), (0.50, 0.45), 2),
    ],
)
def test_the_lower_ends_decide_and_relations_never(overall: Any, companion: Any, lines: int) -> None:
    found = objections(figures(overall, companion), Bar(0.90, 0.90))
    assert len(found) == lines
    assert all("50 % is chance" in line for line in found)


def test_what_more_pictures_might_mend_says_so() -> None:
    assert "more pictures may" in objections(figures((0.95, 0.80)), Bar(0.90, 0.90))[0]
    assert "more pictures may" not in objections(figures((0.85, 0.80)), Bar(0.90, 0.90))[0]


def test_pictures_that_cannot_be_read_are_left_out_by_name(tmp_path: Path) -> None:
    csr(tmp_path, "miniature", "sample", "--out", "w", "--count", "6")
    (tmp_path / "w" / "images" / "0001.png").write_bytes(b"no picture")
    (tmp_path / "w" / "images" / "0002.png").unlink()
    data = annotated_data(tmp_path / "w" / "instances.json", None, 10, 10**6)
    assert data.style == "drawn"  # its file names the world's companions
    trial = try_model(Settings(), data)
    assert [item["prompt_id"] for item in trial.left_out] == ["0001.png"]
    assert data.what.startswith("5 pictures")
    assert trial.figures["overall"].value > 0.9
    assert Trial.from_dict(json.loads(json.dumps(trial.as_dict()))) == trial
    with pytest.raises(InputError, match="--images"):
        annotated_data(tmp_path / "w" / "instances.json", tmp_path, 10, 10**6)


def test_where_annotations_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "images" / "a.jpg")
    prompts = folder / "prompts.json"
    prompts.write_text("[]")
    splits = {"evaluate": {"splits": {"test": {"folder": "miniature:test"}}}}
    settings = Settings(data={"prompts": str(prompts), "images": str(folder / "images")}, **splits)
    assert find_data(settings) is None
    assert not is_due(settings)
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]}
    categories = [{"id": 1, "name": "gizmo"}, {"id": 2, "name": "widget"}]  # any categories, not COCO's alone
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [box], "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    assert is_due(settings)
    data = find_data(settings)
    assert data is not None
    assert [claim.false for claim in claims(data.annotations, data.style, data.pictures)] == [
        "There is a widget in the picture."
    ]


def test_the_shipped_clip_passes(tmp_path: Path) -> None:
    csr(tmp_path, "init")
    done = csr(tmp_path, "reward", "check")
    assert "passed" in done.stdout
    assert "REFUSED" not in done.stdout
    trial = try_model(Settings(), drawn_data(200))  # as many as before a run
    assert trial.passed
    assert trial.figures["kind: companion"].low > 0.96


def test_the_weak_clip_is_the_one_of_the_docs(weak: Path) -> None:
    measured = gates.measure_clip(weak, list(world.sample_split("validation", 300, 0)))
    assert 0.90 < measured["clip_order"] < 0.96
    assert 0.74 < measured["clip_companion_order"] < 0.86


def test_the_weak_clip_is_refused_by_the_command_line(weak: Path, tmp_path: Path) -> None:
    csr(tmp_path, "init")
    own = ["--set", f"reward.model={weak}"]
    done = csr(tmp_path, "reward", "check", *own, check=False)
    assert done.returncode == 1
    assert "REFUSED" in done.stdout
    assert "at least 95 % are needed" in done.stdout
    assert csr(tmp_path, "reward", "check", "--count", "60", *own, "--set", "reward.allow_weak=true").returncode == 0
    for first in (True, False):  # the second time from what is remembered
        done = csr(tmp_path, "run", *own, check=False)
        assert done.returncode == 2
        assert "reward.allow_weak=true" in done.stderr
        assert ("short trial" in done.stdout) == first
    assert not (tmp_path / "data").exists()


def test_check_tells_what_is_refused(weak: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, allowed, passes in (("miniature", False, True), (str(weak), False, False), (str(weak), True, True)):
        settings = Settings(reward=RewardSettings(model=name, allow_weak=allowed))
        finding = next(finding for finding in check(settings) if finding.what == "reward trial")
        assert finding.ok == passes
        assert ("does not tell" in finding.detail) == (name != "miniature")


def test_a_trial_is_remembered_by_content(weak: Path, tmp_path: Path) -> None:
    settings, state = Settings(reward=RewardSettings(model=str(weak))), tmp_path / ".csr"
    assert is_due(settings)
    assert not is_due(Settings())  # the shipped one on its own world
    assert not is_due(Settings(iterations=1, pair={"imported": [1]}, reward={"model": str(weak)}))
    assert kept_trial(settings, state) is None
    made = short_trial(settings, state)
    assert made is not None
    assert kept_trial(settings, state) == made
    assert kept_trial(Settings(), state) is None
    (state / "reward_trial.json").write_text("{")
    assert kept_trial(settings, state) is None


@needs_photos
def test_the_tiny_clip_is_near_chance_on_photographs(tmp_path: Path) -> None:
    csr(tmp_path, "init")
    photos = ["--instances", str(COCO / "instances.json"), "--images", str(COCO / "images")]
    done = csr(tmp_path, "reward", "check", *photos, "--json", check=False)
    assert done.returncode == 1
    assert "REFUSED" in done.stderr
    found = json.loads(done.stdout)
    assert {f"kind: {kind}" for kind in ("object", "companion", "list", "count", "left or right")} <= set(
        found["figures"]
    )
    assert found["figures"]["overall"]["low"] < 0.5 < found["figures"]["overall"]["high"]
    assert csr(tmp_path, "reward", "check", *photos, "--force").returncode == 0


class BagOfObjects:
    """An `Embedder` that knows which categories are in each photograph, and of a sentence which ones it names."""

    def __init__(self, annotations: Annotations, folder: Path) -> None:
        self.names = sorted(annotations.categories, key=len, reverse=True)  # "hot dog" before "dog"
        self.there = {open_image(folder / one.file).tobytes(): one.names for one in annotations.pictures}

    def prepare(self, image: Image.Image) -> torch.Tensor:
        return torch.tensor([[[float(name in self.there[image.tobytes()]) for name in self.names]]])

    def embed_images(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(pixels.flatten(1), dim=1)

    def embed_texts(self, texts: Sequence[str]) -> tuple[torch.Tensor, list[bool]]:
        said = [set(re.findall("|".join(map(re.escape, self.names)), text)) for text in texts]
        rows = torch.tensor([[float(name in words) for name in self.names] for words in said])
        return torch.nn.functional.normalize(rows, dim=1), [False] * len(texts)


@needs_photos
def test_a_model_that_sees_objects_passes_whatever_it_makes_of_numbers_and_sides() -> None:
    data = annotated_data(COCO / "instances.json", None, 64, 10**8)
    blind_to_order = SentenceScorer(RewardSettings(), BagOfObjects(data.annotations, COCO / "images"))
    trial = try_model(Settings(), data, blind_to_order)
    assert trial.passed
    values = {name: figure.value for name, figure in trial.figures.items() if name.startswith("kind: ")}
    assert values == {
        "kind: object": 1, "kind: companion": 1, "kind: list": 1, "kind: count": 0.5, "kind: left or right": 0.5
    }  # fmt: skip


def test_without_annotations_it_says_what_to_give(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    csr(tmp_path, "init", "--prompts", str(tmp_path))
    done = csr(tmp_path, "reward", "check", check=False)
    assert done.returncode == 2
    assert "--instances FILE --images DIR" in done.stderr
    assert csr(tmp_path, "reward", "check", "--images", ".", check=False).returncode == 2
