"""A reward model on trial before anything is trained on it: how often it puts a true sentence above a false one.

Pairwise accuracy = share of pairs in which R_I(true) > R_I(false), an equal R_I counting half; 0.5 is chance. Its
interval is a bootstrap over pictures, since the pairs of one picture belong together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from csr_core.evaluation.statistics import Interval, Item, measure
from csr_core.reward.claims import Claim

OVERALL, COMPANION = "overall", "kind: companion"
# Objects that are there or not are what CHAIR and POPE count, and what annotations are surest of. Contrastive models
# are near chance on what stands where (arXiv 2210.01936) and on numbers (arXiv 2302.12066): told, never decisive.
DECISIVE = ("object", "companion")
LENGTHS = (6, 9, 12)  # words: where the bins of sentence lengths begin, the first one apart
LENGTH_BINS = (*(f"{low}-{high - 1} words" for low, high in pairwise((1, *LENGTHS))), f"{LENGTHS[-1]} words and more")


@dataclass(frozen=True)
class Bar:
    """The least that the lower ends of two intervals may be: that of all decisive pairs, that of companions."""

    overall: float
    companion: float


BARS = {
    # What is in a drawn scene is known without error, so each error is the model's. With 80 % on companions CSR cost 18
    # points of recall, with 94 % still 12 (docs/decisions/2026-11-25-reward-on-trial.md); the shipped CLIP has 100 %.
    "drawn": Bar(0.95, 0.95),
    # Annotators overlook things, most of all those that usually go with the rest: a perfect model would not reach 1,
    # and a large CLIP is useful well below that. These are far enough from chance (.50) that most steps of a reward
    # go the right way, and far below what a working CLIP reaches; they find wrong weights, preprocessing, or domains.
    "photographs": Bar(0.75, 0.60),
}


def trial_items(claims: Sequence[Claim], relevances: Sequence[tuple[float, float]]) -> list[Item]:
    """One item a pair from R_I of (true, false); a figure for all decisive pairs, and by kind, length and object.

    A relevance that is not a number is never the larger one.
    """
    items = []
    for claim, (true, false) in zip(claims, relevances, strict=True):
        names = [f"kind: {claim.kind}", f"length: {length_bin(claim.true)}"]
        if claim.kind in DECISIVE:
            names = [OVERALL, *names, *(f"object: {name}" for name in claim.objects)]
        score = 1.0 if true > false else 0.5 if true == false else 0.0
        key = (claim.image, claim.kind, claim.true, claim.false)
        items.append(Item(key, claim.image, dict.fromkeys(names, (score, 1.0))))
    return items


def length_bin(sentence: str) -> str:
    """Which of LENGTH_BINS a sentence is in."""
    words = len(sentence.split())
    return LENGTH_BINS[sum(words >= begin for begin in LENGTHS)]


def accuracies(items: Sequence[Item], resamples: int = 2000) -> dict[str, Interval]:
    """Every figure with its interval: overall first, then by kind, by length, and by object, the worst object first."""
    found = measure(items, resamples)
    lengths = [f"length: {name}" for name in LENGTH_BINS]
    firsts = [OVERALL, *sorted(name for name in found if name.startswith("kind: ")), *lengths]
    objects = sorted(
        (name for name in found if name.startswith("object: ")), key=lambda name: (found[name].value, name)
    )
    return {name: found[name] for name in (*firsts, *objects) if name in found}


def objections(figures: Mapping[str, Interval], bar: Bar) -> list[str]:
    """Why the model is refused: a line for each of the two figures whose interval reaches below the bar."""
    lines = []
    for name, least, what in (
        (OVERALL, bar.overall, "of true sentences and false ones about objects"),
        (COMPANION, bar.companion, "where the false one names what usually goes with the rest and is absent"),
    ):
        if name not in figures or figures[name].low >= least:
            continue
        found = figures[name]
        line = (
            f"{100 * found.value:.1f} % of pairs right ({100 * found.low:.1f} - {100 * found.high:.1f}) {what}; "
            f"at least {100 * least:.0f} % are needed at the lower end, 50 % is chance"
        )
        lines.append(line + ("; more pictures may narrow the interval" if found.value >= least else ""))
    return lines


@dataclass(frozen=True)
class Trial:
    """What came out: the figures, why the model is refused (empty: it passes), and the pictures left out."""

    data: str
    model: str
    figures: dict[str, Interval]
    objections: tuple[str, ...]
    left_out: tuple[dict[str, str], ...] = ()

    @property
    def passed(self) -> bool:
        return not self.objections

    def as_dict(self) -> dict[str, Any]:
        """As JSON can write it."""
        figures = {name: figure.as_dict() for name, figure in self.figures.items()}
        whole = {"data": self.data, "model": self.model, "passed": self.passed, "figures": figures}
        return {**whole, "objections": list(self.objections), "left_out": list(self.left_out)}

    @classmethod
    def from_dict(cls, read: Mapping[str, Any]) -> Trial:
        """From what `as_dict` gave."""
        figures = {name: Interval(**figure) for name, figure in read["figures"].items()}
        return cls(read["data"], read["model"], figures, tuple(read["objections"]), tuple(read["left_out"]))
