"""What a stage says at its end."""

from csr_core.left_out import reasons
from csr_core.stages.__main__ import describe
from csr_core.stages.runner import StageResult


def test_reasons_are_told_once_with_how_many_and_some_names() -> None:
    left_out = [{"prompt_id": str(n), "reason": "equal texts"} for n in range(5)]
    left_out += [{"prompt_id": "9", "reason": "9.png is missing"}]
    result = StageResult("pair@1", "", {}, {"left_out": left_out}, seconds=1.5)
    assert describe(result) == (
        "pair@1: done in 1.5 s; left out 6:\n  - 5: equal texts (0, 1, 2, ...)\n  - 1: 9.png is missing (9)"
    )


def test_of_many_reasons_the_commonest_are_told() -> None:
    left_out = [{"prompt_id": str(n), "reason": f"prompt too long: {n} characters"} for n in range(12)]
    left_out += [{"prompt_id": "20", "reason": "prompt too long: 7 characters"}]
    lines = describe(StageResult("prepare@1", "", {}, {"left_out": left_out})).splitlines()
    assert lines[1] == "  - 2: prompt too long: 7 characters (7, 20)"
    assert len(lines) == 12
    assert lines[-1] == "  - ... and more, in its summary.json"


def test_reasons_that_differ_in_the_picture_alone_are_one() -> None:
    left_out = [{"prompt_id": str(n), "reason": f"own pictures/{n}.png is missing: check it"} for n in range(12)]
    left_out += [{"prompt_id": "20", "reason": "equal texts"}]
    assert reasons(left_out) == ["12 such as 0: own pictures/0.png is missing: check it", "1: equal texts (20)"]
