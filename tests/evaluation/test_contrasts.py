"""Relative gain, gap to a shifted twin, several seeds, counts on disk: small cases worked by hand."""

import numpy as np
import pytest

from csr_core.errors import InputError
from csr_core.evaluation.contrasts import gain_figures, gap_changes, gaps, relative_gain
from csr_core.evaluation.counts import read_counts, write_counts
from csr_core.evaluation.hypotheses import correct
from csr_core.evaluation.seeds import over_seeds, summarise
from csr_core.evaluation.statistics import Item, compare, measure


def items(right: int, of: int = 100, name: str = "accuracy") -> list[Item]:
    return [Item(i, f"picture {i}", {name: (float(i < right), 1.0)}) for i in range(of)]


def test_the_gain_is_the_ratio_of_mean_scores() -> None:
    """Accuracy 0.5 -> 0.6, CHAIR_i 0.3 -> 0.2: (0.6 + 0.8) / (0.5 + 0.7) - 1 = 1/6."""
    base = {"a": items(50), "b": items(30, name="chair_i")}
    model = {"a": items(60), "b": items(20, name="chair_i")}
    figures = gain_figures(model)
    assert figures == [("a", "accuracy"), ("b", "chair_i")]
    found = relative_gain(model, base, figures)
    assert found.value == pytest.approx(1 / 6)
    assert 0 < found.low < found.value < found.high
    assert relative_gain(base, base, figures).as_dict() == {"value": 0, "low": 0, "high": 0}


def test_points_are_divided_by_full_marks() -> None:
    """MME perception 1500 -> 1600 of 2000: 0.8 / 0.75 - 1."""
    base, model = ({"mme": [Item(0, 0, {"perception": (points, 1.0)})]} for points in (1500.0, 1600.0))
    assert relative_gain(model, base, gain_figures(model)).value == pytest.approx(0.8 / 0.75 - 1)


def test_what_only_describes_and_what_has_no_full_marks_does_not_count() -> None:
    counts = {"words": (20.0, 1.0), "pope_f1": (1.0, 1.0), "recall": (1.0, 2.0), "points": (30.0, 1.0)}
    model = {"test": [Item(0, 0, counts)], "shifted": [Item(0, 0, counts)]}
    assert gain_figures(model, leave_out=["shifted"]) == [("test", "recall")]
    with pytest.raises(InputError, match="full marks"):
        relative_gain(model, model, [("test", "points")])
    with pytest.raises(InputError, match="test/nothing"):
        relative_gain(model, model, [("test", "nothing")])
    with pytest.raises(InputError, match="score is 0"):
        relative_gain({"a": items(50)}, {"a": items(0)}, [("a", "accuracy")])


def test_the_gap_to_a_shifted_twin_and_its_change() -> None:
    """Base 90 -> 70 %, model 92 -> 80 %: gaps -20 and -12 points, which is 8 less."""
    base, base_shifted, model, model_shifted = items(90), items(70), items(92), items(80)
    assert gaps(base, base_shifted)["accuracy"].value == pytest.approx(-0.2)
    gap = gaps(model, model_shifted)["accuracy"]
    assert gap.value == pytest.approx(-0.12)
    assert gap.low < gap.value < gap.high
    change = gap_changes((model, base), (model_shifted, base_shifted))["accuracy"]
    assert change.value == pytest.approx(0.08)
    # Pairing: the change is known far better than either gap.
    assert change.high - change.low < 0.8 * (gap.high - gap.low)


def test_holm_spans_the_splits_and_leaves_descriptions_out() -> None:
    def entry(p: float | None) -> dict:
        return {"value": 1, "vs_base": {"difference": 0} | ({} if p is None else {"p": p})}

    metrics = {
        "test": {"recall": entry(0.01), "words": entry(0.0001), "chair_i": entry(None)},
        "own": {"right": entry(0.04)},
    }
    correct(metrics)
    assert metrics["test"]["recall"]["vs_base"]["p_holm"] == pytest.approx(0.02)
    assert metrics["own"]["right"]["vs_base"]["p_holm"] == pytest.approx(0.04)
    for name in ("words", "chair_i"):
        assert "p_holm" not in metrics["test"][name]["vs_base"]


def test_counts_come_back_as_they_were(tmp_path) -> None:
    """Keys that are tuples or numbers, figures that only some items have: measured and compared as before."""
    own = [Item((i, 0), i // 2, {"a": (float(i), 10.0)} | ({"b": (1.0, 2.0)} if i else {})) for i in range(6)]
    other = [Item((i, 0), i // 2, {"a": (1.0, 10.0)}) for i in range(5)]
    write_counts(tmp_path / "one", {"test": own})
    write_counts(tmp_path / "two", {"test": other})
    back, theirs = (read_counts(tmp_path / name)["test"] for name in ("one", "two"))
    assert measure(back) == measure(own)
    assert compare(back, theirs) == compare(own, other)
    with pytest.raises(InputError, match="csr run"):
        read_counts(tmp_path)


def test_over_seeds_by_hand() -> None:
    """Shares 0.5 and 0.7: mean 0.6, spread 0.1 sqrt(2). One seed: no spread, the image's interval."""
    tables = [np.array([[float(i < right), 1.0] for i in range(100)]) for right in (50, 70)]
    found = over_seeds(tables)
    assert (found.mean, found.spread, found.seeds) == (pytest.approx(0.6), pytest.approx(0.1 * np.sqrt(2)), 2)
    alone = over_seeds(tables[:1])
    assert (alone.spread, alone.high - alone.mean) == (0, pytest.approx(1.984 * 0.5 / np.sqrt(99), rel=1e-3))
    assert found.high - found.low > 3 * (alone.high - alone.low)  # two seeds that far apart tell little
    with pytest.raises(InputError, match="same images"):
        over_seeds([tables[0], tables[1][:50]])


def test_seeds_are_compared_with_their_own_base() -> None:
    """Bases 40 and 60, models 50 and 70: the difference is 0.1 for both, without spread."""
    bases, models = [{"test": items(n)} for n in (40, 60)], [{"test": items(n)} for n in (50, 70)]
    found = summarise(models, bases)["test"]["accuracy"]
    assert (found.mean, found.spread) == (pytest.approx(0.1), pytest.approx(0, abs=1e-12))
    assert summarise(models)["test"]["accuracy"].spread > 0.1
