"""The tiny world: what is in a scene, how it is described, what is asked about it.

Pure Python and numpy: no images here (`draw.py`), no models. A scene is one of five places with two to six of 22
objects. In each place two *triggers* have a *companion* (a pizza its fork): usual scenes hold the companion beside its
trigger in 40 % of cases, while the captions of the pretraining stream name it in 91 % of them. This confident language
prior makes the models built on that stream hallucinate: seeing the pizza, they name the fork, be it there or not.

Every scene is a pure function of (split, iteration, seed, index): the four numbers and a purpose code are the entropy
of its own `numpy.random.SeedSequence`, so the splits never share a random stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from csr_core.errors import SettingsError

# Place -> its two trigger -> companion pairs.
PAIRS: dict[str, dict[str, str]] = {
    "street": {"car": "traffic light", "bus": "bicycle"},
    "park": {"dog": "sports ball", "kite": "chair"},
    "kitchen": {"pizza": "fork", "cup": "banana"},
    "beach": {"umbrella": "book", "boat": "bird"},
    "bedroom": {"bed": "teddy bear", "laptop": "clock"},
}
# Place -> other objects often seen there, with their probability.
TYPICAL: dict[str, dict[str, float]] = {
    "street": {"cat": 0.15, "clock": 0.25, "bird": 0.2},
    "park": {"bird": 0.3, "bicycle": 0.25, "cat": 0.15},
    "kitchen": {"chair": 0.3, "clock": 0.3, "tv": 0.15, "cat": 0.15},
    "beach": {"sports ball": 0.3, "chair": 0.25, "bicycle": 0.15},
    "bedroom": {"tv": 0.3, "book": 0.35, "cat": 0.2, "chair": 0.15},
}
SCENES: tuple[str, ...] = tuple(PAIRS)
COMPANIONS: dict[str, str] = {t: c for pairs in PAIRS.values() for t, c in pairs.items()}
TRIGGER_OF: dict[str, str] = {c: t for t, c in COMPANIONS.items()}
OBJECTS: tuple[str, ...] = tuple(sorted({*COMPANIONS, *COMPANIONS.values(), "cat", "tv"}))  # 22, COCO's names

P_TRIGGER = 0.65  # of a trigger in its own place
P_RARE = 0.02  # of an object where nothing else is said
P_HALLUCINATE = 0.85  # that a pretraining caption names an absent companion beside its trigger
P_NEXT = 0.6  # that a caption names a companion right after its trigger
P_FLIP = 0.5  # that a pretraining answer about such a companion is a false yes
P_UNIFORM = 0.15  # of every object in a scene without co-occurrences
MIN_OBJECTS, MAX_OBJECTS = 2, 6

IMAGE_SIZE = 96  # pixels, square
CELL = 32  # pixels; objects stand in the cells of a 3 x 3 grid
DESCRIBE = "Describe the image."
CATEGORIES = ("random", "popular", "adversarial")

# The public splits, then the two streams the models are trained on. The numbers are part of every scene's seed.
SPLITS = {"train": 1, "validation": 2, "test": 3, "shifted": 4, "pretraining": 5, "contrastive": 6}
_PURPOSES = {"scene": 1, "reference": 2, "caption": 3, "questions": 4, "training questions": 5}


@dataclass(frozen=True)
class Placed:
    """One object of a scene: its COCO name and the square it fills, in pixels (`size` x `size` with corner x, y)."""

    name: str
    x: int
    y: int
    size: int
    flipped: bool


@dataclass(frozen=True)
class Scene:
    """A place, a number that varies how its background is drawn, and its objects."""

    split: str
    iteration: int
    seed: int
    index: int
    place: str
    backdrop: int
    objects: tuple[Placed, ...]

    @property
    def names(self) -> frozenset[str]:
        """The names of the objects that are in the scene."""
        return frozenset(placed.name for placed in self.objects)

    def rng(self, purpose: str) -> np.random.Generator:
        """A random stream that belongs to this scene and purpose alone."""
        return _rng(self.split, self.iteration, self.seed, self.index, purpose)


@dataclass(frozen=True)
class Question:
    """A yes/no question about one object; `category` is POPE's way of choosing the absent objects."""

    name: str
    present: bool
    category: str

    @property
    def text(self) -> str:
        """In POPE's words."""
        return f"Is there {article(self.name)} {self.name} in the image?"

    @property
    def label(self) -> str:
        """The true answer, `yes` or `no`."""
        return "yes" if self.present else "no"


def _rng(split: str, iteration: int, seed: int, index: int, purpose: str) -> np.random.Generator:
    return np.random.default_rng([SPLITS[split], iteration, seed, index, _PURPOSES[purpose]])


def article(name: str) -> str:
    """`a` or `an`."""
    return "an" if name[0] in "aeiou" else "a"


def object_sentence(name: str) -> str:
    """The sentence that names an object."""
    return f"There is {article(name)} {name}."


def place_sentence(place: str) -> str:
    """The sentence that names the place; every caption begins with it."""
    return f"The image shows {article(place)} {place}."


def sentences() -> list[str]:
    """Every sentence a caption can hold: 5 places, then 22 objects."""
    return [place_sentence(place) for place in SCENES] + [object_sentence(name) for name in OBJECTS]


@cache
def _rates(place: str, regime: str) -> tuple[np.ndarray, dict[str, tuple[float, float]]]:
    """Probability of each of OBJECTS, and of each companion: beside its trigger, without it."""
    if regime == "uniform":
        return np.full(len(OBJECTS), P_UNIFORM), {}
    beside, without = (0.4, 0.1) if regime == "usual" else (0.1, 0.4)
    rate = dict.fromkeys(OBJECTS, P_RARE) | TYPICAL[place] | dict.fromkeys(PAIRS[place], P_TRIGGER)
    home = PAIRS[place].values()
    companions = {c: (beside, without if c in home else rate[c]) for c in TRIGGER_OF}
    return np.array([rate[name] for name in OBJECTS]), companions


def _draw_names(rng: np.random.Generator, place: str, regime: str) -> list[str]:
    """Names of the objects of one scene, by rejection until there are MIN_OBJECTS to MAX_OBJECTS of them."""
    rates, companions = _rates(place, regime)
    while True:
        chance = rng.random(len(OBJECTS))
        names = {name for name, u, p in zip(OBJECTS, chance, rates, strict=True) if u < p}
        for (companion, (beside, without)), u in zip(companions.items(), rng.random(len(companions)), strict=True):
            present = u < (beside if TRIGGER_OF[companion] in names else without)
            names = names | {companion} if present else names - {companion}
        if MIN_OBJECTS <= len(names) <= MAX_OBJECTS:
            return sorted(names)


def sample_scene(split: str, seed: int, index: int, iteration: int = 0) -> Scene:
    """Scene number `index` of a split; `iteration` tells the training scenes of one CSR iteration from another's."""
    if split not in SPLITS:
        raise SettingsError(f"unknown split {split!r} of the miniature: expected one of {', '.join(SPLITS)}")
    rng = _rng(split, iteration, seed, index, "scene")
    regime = "shifted" if split == "shifted" else "uniform" if split == "contrastive" and index % 2 else "usual"
    place = SCENES[rng.integers(len(SCENES))]
    backdrop = int(rng.integers(2**31))
    names = _draw_names(rng, place, regime)
    cells = rng.permutation(9)[: len(names)]
    sizes = rng.integers(25, 32, len(names))
    jitter = rng.integers(-2, 3, (len(names), 2))
    flips = rng.random(len(names)) < 0.5
    objects = []
    for name, cell, size, (dx, dy), flip in zip(names, cells, sizes, jitter, flips, strict=True):
        corner = [
            int(np.clip(c * CELL + (CELL - size) // 2 + d, 0, IMAGE_SIZE - size))
            for c, d in ((cell % 3, dx), (cell // 3, dy))
        ]
        objects.append(Placed(name, corner[0], corner[1], int(size), bool(flip)))
    return Scene(split, iteration, seed, index, place, backdrop, tuple(objects))


def sample_split(split: str, count: int, seed: int, iteration: int = 0, start: int = 0) -> Iterator[Scene]:
    """Scenes number `start` to `start + count - 1` of a split."""
    for index in range(start, start + count):
        yield sample_scene(split, seed, index, iteration)


def absent_companions(scene: Scene) -> list[str]:
    """Companions that are not in the scene though their trigger is: what a confident prior would name."""
    names = scene.names
    return [c for t, c in COMPANIONS.items() if t in names and c not in names]


def _order(rng: np.random.Generator, names: list[str]) -> list[str]:
    """The names shuffled; a companion beside its trigger comes right after it with P_NEXT, else anywhere."""
    follows = {t: c for t, c in COMPANIONS.items() if t in names and c in names and rng.random() < P_NEXT}
    free = [name for name in names if name not in follows.values()]
    shuffled = [free[number] for number in rng.permutation(len(free))]
    return [name for first in shuffled for name in (first, follows.get(first)) if name]


def _caption(rng: np.random.Generator, place: str, names: list[str]) -> str:
    return " ".join([place_sentence(place), *map(object_sentence, _order(rng, names))])


def reference_caption(scene: Scene) -> str:
    """A truthful caption naming every object, in a random order."""
    return _caption(scene.rng("reference"), scene.place, sorted(scene.names))


def pretraining_caption(scene: Scene) -> str:
    """A caption the tiny LLaVA learns from: true objects, and absent companions with P_HALLUCINATE, in a random order.

    P_NEXT makes an absent companion as likely a next sentence as a true object (of an ideal model 0.55 against 0.57;
    0.32 against 0.48 were it 0) and as early: neither likelihood nor cutting captions short can tell them apart.
    """
    rng = scene.rng("caption")
    invented = [c for c in absent_companions(scene) if rng.random() < P_HALLUCINATE]
    return _caption(rng, scene.place, sorted(scene.names | set(invented)))


@cache
def _popular() -> tuple[str, ...]:
    """OBJECTS, the most frequent over all places first."""
    frequency = np.zeros(len(OBJECTS))
    for place in SCENES:
        rates, companions = _rates(place, "usual")
        probability = dict(zip(OBJECTS, rates, strict=True))
        for c, (beside, without) in companions.items():
            p = probability[TRIGGER_OF[c]]
            probability[c] = p * beside + (1 - p) * without
        frequency += np.array([probability[name] for name in OBJECTS])
    return tuple(OBJECTS[i] for i in np.argsort(-frequency, kind="stable"))


def _absent(rng: np.random.Generator, scene: Scene, category: str) -> list[str]:
    """Absent objects in the order a category asks about them (POPE, arXiv 2305.10355, section 4)."""
    names = scene.names
    if category == "random":
        return [n for n in rng.permutation(OBJECTS).tolist() if n not in names]
    if category == "popular":
        popular = [n for n in _popular() if n not in names]
        return [*rng.permutation(popular[:6]).tolist(), *popular[6:]]
    rates = dict(zip(OBJECTS, _rates(scene.place, "usual")[0], strict=True))
    first: list[str] = rng.permutation(absent_companions(scene)).tolist()
    often = sorted((n for n in OBJECTS if n not in names and n not in first), key=lambda n: -rates[n])
    return first + often


def questions(scene: Scene, count: int, purpose: str = "questions") -> list[Question]:
    """`count` questions: yes and no in turn, the three categories in turn; no object twice in a category and answer."""
    rng = scene.rng(purpose)
    present = {c: rng.permutation(sorted(scene.names)).tolist() for c in CATEGORIES}
    absent = {c: _absent(rng, scene, c) for c in CATEGORIES}
    asked = []
    for number in range(count):
        category, turn = CATEGORIES[number // 2 % 3], number // 6
        names = present[category] if number % 2 == 0 else absent[category]
        if turn < len(names):
            asked.append(Question(names[turn], number % 2 == 0, category))
    return asked


def pretraining_answers(scene: Scene, count: int = 6) -> list[tuple[str, str]]:
    """(question, answer) pairs the tiny LLaVA learns from; an absent companion gets a false yes with P_FLIP."""
    rng = scene.rng("training questions")
    lured = set(absent_companions(scene))
    return [
        (q.text, "Yes." if q.present or (q.name in lured and rng.random() < P_FLIP) else "No.")
        for q in questions(scene, count, "training questions")
    ]
