"""What a stage says at its end."""

from csr_core.stages.__main__ import describe
from csr_core.stages.runner import StageResult


def test_reasons_are_told_once_with_how_many_and_some_names() -> None:
    left_out = [{"prompt_id": str(n), "reason": "equal texts"} for n in range(5)]
    left_out += [{"prompt_id": "9", "reason": "9.png is missing"}]
    result = StageResult("pair@1", "", {}, {"left_out": left_out}, seconds=1.5)
    assert describe(result) == (
        "pair@1: done in 1.5 s; left out 6:\n  - 5: equal texts (0, 1, 2, ...)\n  - 9: 9.png is missing"
    )


def test_of_many_reasons_the_commonest_are_told() -> None:
    left_out = [{"prompt_id": str(n), "reason": f"{n}.png is missing"} for n in range(12)]
    left_out += [{"prompt_id": "20", "reason": "7.png is missing"}]
    lines = describe(StageResult("prepare@1", "", {}, {"left_out": left_out})).splitlines()
    assert lines[1] == "  - 2: 7.png is missing (7, 20)"
    assert len(lines) == 12
    assert lines[-1] == "  - ... and more, in its summary.json"
