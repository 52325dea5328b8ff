"""The guards: what each looks at, when it fires, and what it says.

A reading's value is compared with the threshold of the same name in the section `guards` of the settings. What an
iteration does not have (no held-out model, imported pairs) is not measured, and said so.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, TypeVar

from csr_core.config import GuardSettings
from csr_core.guards.evidence import Evidence

T = TypeVar("T")
Figures = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Reading:
    """What a guard saw: `value` against `threshold`; value None where it could not be measured."""

    guard: str
    value: float | None
    threshold: float | None
    fired: bool
    sentence: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def readings(evidence: Evidence, settings: GuardSettings) -> list[Reading]:
    """What every guard that is switched on says of an iteration."""
    found = []
    for name, guard in GUARDS.items():
        threshold = getattr(settings, name)
        if threshold is None:
            continue
        try:
            value, fired, sentence = guard(evidence, threshold)
        except NotMeasured as missing:
            found.append(Reading(name, None, threshold, False, f"Not measured: {missing}."))
        else:
            found.append(Reading(name, round(value, 6), threshold, fired, sentence))
    return found


class NotMeasured(Exception):  # noqa: N818 - it is no error
    """What a guard looks at is not there; the message says why."""


Seen = tuple[float, bool, str]  # value, fired, sentence


def reward_up_recall_down(evidence: Evidence, threshold: float) -> Seen:
    """The reward's own model likes the answers better than the base's, and they name less of what is there."""
    up, drop = _change(evidence, evidence.rewarded), -_change(evidence, "recall")
    sentence = (
        f"Against the base, the reward model rates the answers {up:+.2f} and recall changed by {-100 * drop:+.1f} "
        f"points (a fall of more than {100 * threshold:.1f} while the rating rises means that the reward is fooled)."
    )
    return drop, up > 0 and drop > threshold, sentence


def reward_up_held_out_down(evidence: Evidence, threshold: float) -> Seen:
    """The reward's own model likes the answers better, a model that nothing is trained on likes them less."""
    up, down = _change(evidence, evidence.rewarded), -_change(evidence, "held_out_relevance")
    high = _difference(evidence, "held_out_relevance")["high"]
    sentence = (
        f"Against the base, the reward model rates the answers {up:+.2f}, a model that is not trained on {-down:+.2f} "
        f"(a fall of more than {threshold:.2f}, beyond chance, while the first rises means that the reward is fooled)."
    )
    return down, up > 0 and down > threshold and high < 0, sentence


def shorter(evidence: Evidence, threshold: float) -> Seen:
    """Answers shrink: the surest way to name nothing wrong is to say nothing."""
    ratio = _ratio(evidence, "words")
    return (
        ratio,
        ratio < threshold,
        f"Answers have {ratio:.2f} times as many words as the base's (at least {threshold:g}).",
    )


def longer(evidence: Evidence, threshold: float) -> Seen:
    """Answers grow: a sum of rewards is raised by saying more."""
    ratio = _ratio(evidence, "words")
    return (
        ratio,
        ratio > threshold,
        f"Answers have {ratio:.2f} times as many words as the base's (at most {threshold:g}).",
    )


def repetitive(evidence: Evidence, threshold: float) -> Seen:
    """Sentences that were said before in the same answer."""
    more = _change(evidence, "repeats")
    share = _value(evidence, "repeats")
    sentence = (
        f"{100 * share:.1f} % of the sentences repeat an earlier one, {100 * more:+.1f} points against the base "
        f"(at most {100 * threshold:+.1f})."
    )
    return more, more > threshold, sentence


def truncation(evidence: Evidence, threshold: float) -> Seen:
    """Less is hallucinated, but no less than by cutting the base's answers to the same recall.

    Asked only where recall is lower than the base's beyond chance: otherwise nothing was bought by saying less.
    """
    control = evidence.figures.get("chair_i", {}).get("vs_control")
    if control is None or control.get("difference") is None:
        raise NotMeasured("there is no truncation control")
    less = _difference(evidence, "recall")["high"] < 0
    sentence = (
        f"CHAIR_i is {100 * control['difference']:+.1f} points "
        f"[{100 * control['low']:+.1f}, {100 * control['high']:+.1f}] against the base's answers cut to the same recall"
        + (" (should lie below 0, since recall fell)." if less else " (recall did not fall).")
    )
    return float(control["difference"]), less and control["high"] >= -threshold, sentence


def disagreement(evidence: Evidence, threshold: float) -> Seen:
    """The two halves of the reward pull apart: rank correlation of likelihood and relevance over all candidates."""
    if evidence.agreement is None or evidence.first_agreement is None:
        raise NotMeasured("there are no scored candidates")
    drop = evidence.first_agreement - evidence.agreement
    sentence = (
        f"The rank correlation of likelihood and relevance among candidates is {evidence.agreement:.2f}, "
        f"{-drop:+.2f} against the first iteration (at most {threshold:g} less)."
    )
    return drop, drop > threshold, sentence


def candidate_variety(evidence: Evidence, threshold: float) -> Seen:
    """Distinct sentences among the candidates of a picture, against the first iteration."""
    if evidence.variety is None or not evidence.first_variety:
        raise NotMeasured("there are no scored candidates")
    ratio = evidence.variety / evidence.first_variety
    sentence = (
        f"{100 * evidence.variety:.0f} % of a picture's candidate sentences are distinct, {ratio:.2f} times the first "
        f"iteration's share (at least {threshold:g})."
    )
    return ratio, ratio < threshold, sentence


def answer_variety(evidence: Evidence, threshold: float) -> Seen:
    """Answers grow alike: the effective number of different word pairs, among equally many of the base's.

    exp(entropy) of the pairs' shares: 1 where all are the same, n where n are equally frequent (the Hill number of
    order 1). Short texts hold fewer pairs, so the longer side is thinned out evenly to as many.
    """
    if not evidence.answers or not evidence.base_answers:
        raise NotMeasured("there are no answers that describe pictures")
    own, base = (_word_pairs(texts) for texts in (evidence.answers, evidence.base_answers))
    count = min(len(own), len(base))
    if count == 0:
        raise NotMeasured("the answers are single words")
    kinds = [effective_number(_thinned(pairs, count)) for pairs in (own, base)]
    ratio = kinds[0] / kinds[1]
    sentence = (
        f"Answers vary as if they had {kinds[0]:.0f} different word pairs, the base's {kinds[1]:.0f}: {ratio:.2f} "
        f"times (at least {threshold:g})."
    )
    return ratio, ratio < threshold, sentence


def effective_number(things: Sequence[Hashable]) -> float:
    """exp(-sum p log p) over the shares p of the kinds among `things`: e.g. of [a, a, b, b] 2, of [a, a, a, a] 1."""
    shares = [count / len(things) for count in Counter(things).values()]
    return math.exp(-sum(share * math.log(share) for share in shares))


def _word_pairs(texts: Sequence[str]) -> list[tuple[str, str]]:
    return [pair for text in texts for pair in pairwise(text.split())]


def _thinned(things: Sequence[T], count: int) -> list[T]:
    return [things[place * len(things) // count] for place in range(count)]


def perplexity(evidence: Evidence, threshold: float) -> Seen:
    """Language quality: how much less likely the base finds a token of the answers than of its own."""
    more = _change(evidence, "base_nll")
    sentence = (
        f"To the base model, a token of the answers costs {_value(evidence, 'base_nll'):.2f} nats, {more:+.2f} against "
        f"its own answers (at most {threshold:+.2f})."
    )
    return more, more > threshold, sentence


def kl(evidence: Evidence, threshold: float) -> Seen:
    """Distance from the base: mean log-ratio of the two models over the tokens of the answers (an estimate of KL)."""
    value = _value(evidence, "kl")
    return (
        value,
        value > threshold,
        f"The model is {value:.3f} nats a token away from the base (at most {threshold:g}).",
    )


def both_falling(evidence: Evidence, threshold: float) -> Seen:
    """DPO may raise the margin by making both answers unlikely; at the end of training, nats of the chosen answer."""
    if evidence.chosen_gain is None or evidence.rejected_gain is None:
        raise NotMeasured("the training left no log of its rewards")
    fell = -evidence.chosen_gain
    sentence = (
        f"In training the chosen answers' log-probability changed by {evidence.chosen_gain:+.1f} nats and the rejected "
        f"ones' by {evidence.rejected_gain:+.1f} (the chosen may lose {threshold:g} where both fall)."
    )
    return fell, fell > threshold and evidence.rejected_gain < 0, sentence


def training_gap(evidence: Evidence, threshold: float) -> Seen:
    """Learnt by heart: pairs trained on are told apart, pairs held out are not."""
    if evidence.trained_accuracy is None or evidence.held_out_accuracy is None:
        raise NotMeasured("no pairs were held out (finetune.held_out_share)")
    gap = evidence.trained_accuracy - evidence.held_out_accuracy
    # Few pairs are held out: what their number alone can bring about is no reason (90 %, one more of each kind added).
    chance = 1.645 * math.sqrt(sum(_variance(share, evidence.held_out_pairs) for share in _shares(evidence)))
    sentence = (
        f"{100 * evidence.trained_accuracy:.0f} % of the trained pairs are told apart and "
        f"{100 * evidence.held_out_accuracy:.0f} % of those held out (a gap of at most {100 * threshold:.0f} points)."
    )
    return gap, gap > max(threshold, chance), sentence


def _shares(evidence: Evidence) -> list[float]:
    shares = (evidence.trained_accuracy, evidence.held_out_accuracy)
    return [share for share in shares if share is not None]


def _variance(share: float, count: int) -> float:
    """Of a share of `count`, moved towards a half by one success and one failure (Agresti and Coull)."""
    moved = (share * count + 1) / (count + 2)
    return moved * (1 - moved) / (count + 2)


Guard = Callable[[Evidence, float], Seen]
_ALL: Sequence[Guard] = (
    reward_up_recall_down,
    reward_up_held_out_down,
    shorter,
    longer,
    repetitive,
    truncation,
    disagreement,
    candidate_variety,
    answer_variety,
    perplexity,
    kl,
    both_falling,
    training_gap,
)
GUARDS: dict[str, Guard] = {guard.__name__: guard for guard in _ALL}  # the thresholds have the same names


def _value(evidence: Evidence, name: str, figures: Figures | None = None) -> float:
    value = (evidence.figures if figures is None else figures).get(name, {}).get("value")
    if value is None:
        raise NotMeasured(f"there is no figure {name}")
    return float(value)


def _change(evidence: Evidence, name: str) -> float:
    return _value(evidence, name) - _value(evidence, name, evidence.base_figures)


def _ratio(evidence: Evidence, name: str) -> float:
    base = _value(evidence, name, evidence.base_figures)
    if base == 0:
        raise NotMeasured(f"the base's {name} is 0")
    return _value(evidence, name) / base


def _difference(evidence: Evidence, name: str) -> Mapping[str, float]:
    found = evidence.figures.get(name, {}).get("vs_base")
    if found is None:
        raise NotMeasured(f"{name} was not compared with the base's")
    return dict(found)
