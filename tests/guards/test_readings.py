"""Each guard on evidence made up for it: silent on a sound iteration, firing on the one it is there for."""

from dataclasses import replace
from typing import Any

import pytest

from csr_core.config import GuardSettings
from csr_core.guards import GUARDS, Evidence, readings
from csr_core.guards.readings import effective_number
from csr_core.stages.guard import last_good

ANSWERS = [
    "The image shows a park. There is a dog.",
    "The image shows a beach. There is a cat.",
    "A man rides a horse.",
]


def figure(value: float, base: float | None = None, half: float = 0.01) -> dict[str, Any]:
    found: dict[str, Any] = {"value": value, "low": value - half, "high": value + half, "n": 100}
    if base is not None:
        difference = value - base
        found["vs_base"] = {"difference": difference, "low": difference - half, "high": difference + half}
    return found


BASE = {
    "chair_i": 0.22, "recall": 0.98, "words": 20.0, "repeats": 0.01, "relevance": 30.0, "held_out_relevance": 25.0,
    "base_nll": 0.2, "kl": 0.0,
}  # fmt: skip
SOUND = {**BASE, "chair_i": 0.10, "recall": 0.975, "words": 19.0, "relevance": 32.0, "held_out_relevance": 25.5,
         "base_nll": 0.25, "kl": 0.05}  # fmt: skip


def evidence(
    control: tuple[float, float] = (-0.10, -0.06), figures: dict[str, float] | None = None, **more
) -> Evidence:
    """A sound iteration but for what is given. control: upper and lower end of CHAIR_i less the control's."""
    own = {name: figure(value, BASE[name]) for name, value in {**SOUND, **(figures or {})}.items()}
    low, high = control
    own["chair_i"]["vs_control"] = {"difference": (low + high) / 2, "low": low, "high": high}
    sound = Evidence(
        own, {name: figure(value) for name, value in BASE.items()}, "relevance", ANSWERS, ANSWERS, 0.3, 0.3, 0.4, 0.4,
        chosen_gain=2.0, rejected_gain=-9.0, trained_accuracy=0.9, held_out_accuracy=0.85,
        held_out_pairs=20,
    )  # fmt: skip
    return replace(sound, **more)


def fired(found: Evidence, **thresholds: Any) -> list[str]:
    return [one.guard for one in readings(found, GuardSettings(**thresholds)) if one.fired]


def test_a_sound_iteration_fires_none() -> None:
    assert fired(evidence()) == []
    assert all(one.value is not None for one in readings(evidence(), GuardSettings()))


@pytest.mark.parametrize(
    ("guard", "found"),
    [
        ("reward_up_recall_down", evidence(figures={"recall": 0.92})),
        ("reward_up_held_out_down", evidence(figures={"held_out_relevance": 24.0})),
        ("shorter", evidence(figures={"words": 14.0})),
        ("longer", evidence(figures={"words": 31.0})),
        ("repetitive", evidence(figures={"repeats": 0.1})),
        ("truncation", evidence(control=(-0.05, 0.01), figures={"recall": 0.95})),
        ("disagreement", evidence(agreement=0.05)),
        ("candidate_variety", evidence(variety=0.1)),
        ("answer_variety", evidence(answers=["A dog. A dog. A dog."] * 3)),
        ("perplexity", evidence(figures={"base_nll": 1.0})),
        ("kl", evidence(figures={"kl": 0.6})),
        ("both_falling", evidence(chosen_gain=-8.0)),
        ("training_gap", evidence(trained_accuracy=1.0, held_out_accuracy=0.5)),
    ],
)
def test_each_fires_on_what_it_is_there_for(guard: str, found: Evidence) -> None:
    assert fired(found) == [guard]
    [one] = [one for one in readings(found, GuardSettings()) if one.fired]
    assert one.sentence.endswith(".")
    assert fired(found, **{guard: None}) == []  # switched off


def test_every_guard_has_a_threshold_and_is_tried_here() -> None:
    assert list(GUARDS) == [name for name in GuardSettings.model_fields if name not in ("stop_on", "after_stop")]
    marks = test_each_fires_on_what_it_is_there_for.pytestmark[0].args[1]
    assert [guard for guard, _ in marks] == list(GUARDS)


@pytest.mark.parametrize(
    "found",
    [
        evidence(figures={"recall": 0.90, "relevance": 29.0}),  # the reward did not rise
        evidence(control=(-0.05, 0.01)),  # recall did not fall beyond chance
        evidence(figures={"held_out_relevance": 24.995}),  # within chance
        evidence(chosen_gain=-8.0, rejected_gain=1.0),  # the rejected one did not fall
    ],
)
def test_half_of_a_reason_is_none(found: Evidence) -> None:
    assert fired(found) == []


def test_what_is_not_there_is_not_measured_and_says_why() -> None:
    found = evidence(agreement=None, trained_accuracy=None, answers=[])
    del found.figures["held_out_relevance"], found.figures["kl"]
    missing = {one.guard: one.sentence for one in readings(found, GuardSettings()) if one.value is None}
    assert set(missing) == {"reward_up_held_out_down", "disagreement", "answer_variety", "kl", "training_gap"}
    assert missing["training_gap"] == "Not measured: no pairs were held out (finetune.held_out_share)."


def test_a_guard_that_there_is_not_cannot_stop() -> None:
    with pytest.raises(ValueError, match="stop_on names loudness: expected guards"):
        GuardSettings(stop_on=["loudness"])


def test_the_last_good_iteration(tmp_path) -> None:
    from csr_core.layout import Layout
    from csr_core.records import write_json

    layout = Layout(tmp_path)
    assert [last_good(k, layout) for k in (1, 2, 3)] == [0, 1, 2]
    for k, stopped in ((1, False), (2, True), (3, True)):
        write_json(layout.verdict(k), {"stopped": stopped})
    assert [last_good(k, layout) for k in (1, 2, 3, 4)] == [0, 1, 1, 1]
    write_json(layout.verdict(1), {"stopped": True})
    assert last_good(4, layout) == 0


def test_the_effective_number_of_kinds_by_hand() -> None:
    """Shares 1/2, 1/4, 1/4: entropy (1/2) ln 2 + 2 * (1/4) ln 4 = 1.5 ln 2, and exp of it 2^1.5 = 2.83."""
    assert effective_number("aabc") == pytest.approx(2**1.5)
    assert effective_number("aaaa") == 1
    assert effective_number("abcd") == pytest.approx(4)
