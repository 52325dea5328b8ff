"""Pairs of a true and a false sentence about a picture, made from what is annotated in it.

Kinds of pairs: `object` (something there against something absent, drawn at random), `companion` (against something
absent that usually goes with what is there), and, for photographs, `list` (two or three things, one of them absent in
the false sentence), `count` and `left or right`. The sentences' wordings are in `trial_sentences.json`.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from csr_core.evaluation.sources import Annotated, Annotations, Box

ABSENT = 3  # companions, and as many others, that each object of a picture is held against
MOST_COUNTED = 6  # people count larger groups only roughly, annotators too
MOST_RELATIONS = 6  # in a picture


@dataclass(frozen=True)
class Claim:
    """Two sentences about one picture; `objects`: the categories that either of them names."""

    image: str
    true: str
    false: str
    kind: str
    objects: tuple[str, ...] = ()


@cache
def wordings() -> dict[str, dict[str, str]]:
    """The data file: the sentences for `photographs` and for `drawn` pictures, and `said_as` of odd category names."""
    text = resources.files("csr_core.reward").joinpath("trial_sentences.json").read_text("utf-8")
    return dict(json.loads(text))


def claims(data: Annotations, style: str, pictures: Sequence[Annotated], seed: int = 0) -> list[Claim]:
    """All pairs about `pictures`, in the wording `style`; the same arguments give the same pairs.

    What goes together is taken from `data.companions` where there are any, else counted over all of `data`.
    """
    company = None if data.companions else together(data.pictures)
    words = wordings()[style]
    out: list[Claim] = []
    for picture in pictures:
        rng = np.random.default_rng([seed, zlib.crc32(picture.file.encode())])
        there = picture.names
        absent = [name for name in data.categories if name not in there]
        if company is None:
            lured = [c for t, c in data.companions.items() if t in there and c not in there]
        else:
            lured = usual_companions(there, absent, company)
        lured = lured[:ABSENT]
        rest = [name for name in absent if name not in lured]
        others = [rest[number] for number in rng.permutation(len(rest))[:ABSENT]]
        out += _objects(picture.file, there, {"companion": lured, "object": others}, words["object"])
        if "list" in words:
            out += _lists(picture.file, there, [*lured, *others], words["list"], rng)
        if "count" in words:
            out += _counts(picture, words["count"], rng)
        if "left" in words:
            out += _relations(picture, words["left"], words["right"])
    return out


def together(pictures: Iterable[Annotated]) -> dict[str, dict[str, float]]:
    """`[a][b]`: share of the pictures with a that also show b."""
    alone: Counter[str] = Counter()
    both: dict[str, Counter[str]] = defaultdict(Counter)
    for picture in pictures:
        names = picture.names
        alone.update(names)
        for a in names:
            both[a].update(name for name in names if name != a)
    return {a: {b: count / alone[a] for b, count in found.items()} for a, found in both.items()}


def usual_companions(
    there: Sequence[str], absent: Sequence[str], company: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Those of `absent` that go with what is there, most usual first: by the sum of their shares beside each of it.

    As POPE chooses its adversarial questions (arXiv 2305.10355, section 4), but by shares, so that what is frequent
    everywhere does not always come first.
    """
    usual = {name: sum(company.get(a, {}).get(name, 0.0) for a in there) for name in absent}
    return sorted((name for name in absent if usual[name] > 0), key=lambda name: (-usual[name], name))


def _objects(image: str, there: list[str], absent: dict[str, list[str]], words: str) -> Iterator[Claim]:
    for kind, names in absent.items():
        for false in names:
            for true in there:
                yield Claim(image, words.format(one=one(true)), words.format(one=one(false)), kind, (true, false))


def _lists(image: str, there: list[str], absent: list[str], words: str, rng: np.random.Generator) -> Iterator[Claim]:
    """Longer sentences: two and three things, of which one is absent in the false sentence."""
    for size in (2, 3):
        if len(there) < size or not absent:
            continue
        true = [there[number] for number in rng.permutation(len(there))[:size]]
        false = list(true)
        false[rng.integers(size)] = absent[rng.integers(len(absent))]
        said = [words.format(list=_joined([one(name) for name in names])) for names in (true, false)]
        yield Claim(image, said[0], said[1], "list", tuple(dict.fromkeys([*true, *false])))


def _counts(picture: Annotated, words: str, rng: np.random.Generator) -> Iterator[Claim]:
    """Two to MOST_COUNTED of a category, none of them a crowd, against another such number."""
    crowds = {box.name for box in picture.boxes if box.crowd}
    for name, number in sorted(Counter(box.name for box in picture.boxes).items()):
        if name in crowds or not 2 <= number <= MOST_COUNTED:
            continue
        wrong = rng.choice([other for other in range(2, MOST_COUNTED + 1) if other != number])
        said = [words.format(number=_inflector().number_to_words(int(n)), many=many(name)) for n in (number, wrong)]
        yield Claim(picture.file, said[0], said[1], "count", (name,))


def _relations(picture: Annotated, left: str, right: str) -> Iterator[Claim]:
    """Of two things that there is one of each, the one whose box ends before the other's begins is left of it."""
    alone = Counter(box.name for box in picture.boxes)
    boxes = [box for box in picture.boxes if alone[box.name] == 1 and box.place and not box.crowd]
    apart = [(a, b) for a in boxes for b in boxes if _end(a) <= _start(b)]
    for a, b in sorted(apart, key=lambda pair: (pair[0].name, pair[1].name))[:MOST_RELATIONS]:
        said = [words.format(one=one(a.name), other=one(b.name)) for words in (left, right)]
        yield Claim(picture.file, said[0], said[1], "left or right", (a.name, b.name))


def _start(box: Box) -> float:
    return box.place[0] if box.place else 0.0


def _end(box: Box) -> float:
    return box.place[0] + box.place[2] if box.place else 0.0


def one(name: str) -> str:
    """A category as one of it is spoken of: `an umbrella`, `a pair of skis`."""
    said = wordings()["said_as"].get(name, name)
    return f"{'an' if said[0] in 'aeiou' else 'a'} {said}"


def many(name: str) -> str:
    """Several of a category: `people`, `pairs of skis`."""
    return str(_inflector().plural_noun(wordings()["said_as"].get(name, name)))


def _joined(parts: list[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


@cache
def _inflector() -> Any:
    import inflect  # takes seconds to load: drawn pictures do without

    return inflect.engine()
