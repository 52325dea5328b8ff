"""The table, the sentence and the page say what the metrics files say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from csr_core.ablation import CONFIGURATIONS, ablation_table, mean_metrics, runs_table
from csr_core.errors import InputError
from csr_core.layout import Layout
from csr_core.presets import PRESETS
from csr_core.records import write_json
from csr_core.report import conclusion, figure, load_metrics, metrics_table, plot_metrics, write_report


def metrics(chair_i: float, half: float = 0.02) -> dict[str, dict[str, dict[str, float]]]:
    names = ("chair_i", "chair_s", "recall", "words", "pope_accuracy")
    entry = {name: {"value": 0.9, "low": 0.8, "high": 1.0, "n": 50} for name in names}
    return {"test": {**entry, "chair_i": {"value": chair_i, "low": chair_i - half, "high": chair_i + half, "n": 50}}}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    for k, value in enumerate((0.22, 0.15, 0.08)):
        write_json(layout.metrics(k), metrics(value))
    return layout


def test_the_table_has_a_row_for_each_iteration(layout: Layout) -> None:
    table = metrics_table(layout)
    assert "22.0 [20.0, 24.0]" in table
    assert "iteration 2  8.0 [6.0, 10.0]" in table
    assert "iteration 2" not in metrics_table(layout, 1)


@pytest.mark.parametrize(
    ("before", "after", "half", "words"),
    [(0.22, 0.08, 0.02, "fell from 22.0 %"), (0.08, 0.22, 0.02, "rose"), (0.10, 0.09, 0.02, "the intervals overlap")],
)
def test_the_sentence_tells_what_happened(before: float, after: float, half: float, words: str) -> None:
    assert words in conclusion([metrics(before, half), metrics(after, half)])


def test_figures_without_a_value_or_bounds_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    """A tiny split may have no CHAIR_i, or a value without an interval, or one beside its bounds."""
    for nothing in ("chair_i", "recall", "pope_accuracy"):
        runs = [metrics(0.2), metrics(0.1)]
        runs[1]["test"][nothing] = {"value": None, "low": None, "high": None, "n": 0}  # type: ignore[dict-item]
        assert plot_metrics({"run": runs}).startswith(b"\x89PNG")
        assert (conclusion(runs) == "") == (nothing != "pope_accuracy")
        for k, one in enumerate(runs):
            write_json(Layout(tmp_path).metrics(k), one)
        assert "iteration 1" in metrics_table(Layout(tmp_path))
        write_report(Layout(tmp_path), tmp_path / "r.html")
    runs = [metrics(0.2), metrics(0.1)]
    runs[1]["test"]["chair_i"] |= {"low": None, "high": None}  # type: ignore[dict-item]
    runs[1]["test"]["recall"] |= {"low": 0.95, "high": 0.99}
    assert plot_metrics({"run": runs}).startswith(b"\x89PNG")
    assert conclusion(runs) == ""
    assert figure(runs[1]["test"]["chair_i"], "chair_i") == "10.0"


def test_the_page_names_nothing_outside_itself(layout: Layout, tmp_path: Path) -> None:
    """Every address in it is data; what a browser does with it: test_in_browser.py."""
    write_report(layout, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "22.0 [20.0, 24.0]" in page
    assert all(address.startswith(("data:", "#")) for address in re.findall(r"(?:src|href)=\"([^\"]*)", page))
    assert "url(" not in page
    assert plot_metrics({"run": load_metrics(layout)}).startswith(b"\x89PNG")


def test_without_metrics_it_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="csr run"):
        load_metrics(Layout(tmp_path))


def test_the_ablation_means_over_seeds() -> None:
    """Seeds with 20 % and 10 %: mean 15 %, from 10 to 20."""
    runs = [[metrics(0.2), metrics(0.2)], [metrics(0.2), metrics(0.1)]]
    mean = mean_metrics(runs)[1]["test"]["chair_i"]
    assert (mean["value"], mean["low"], mean["high"]) == pytest.approx((0.15, 0.1, 0.2))
    assert "15.0 [10.0, 20.0]" in ablation_table({"steady: image alone": runs})


def test_the_table_of_runs_has_intervals_and_differences() -> None:
    last = metrics(0.08)
    last["test"]["recall"]["vs_base"] = {"difference": -0.012, "low": -0.02, "high": 0.001}  # type: ignore[assignment]
    last["test"]["chair_i_control"] = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 9}
    table = runs_table({"steady": [[metrics(0.22), last]]})
    for cell in ("22.0 [20.0, 24.0]", "8.0 [6.0, 10.0]", "20.0 [10.0, 30.0]", "-1.2 [-2.0, +0.1]"):
        assert cell in table


def test_the_ablation_covers_each_part_under_each_preset() -> None:
    parts = {"image alone", "likelihood alone", "both, raw", "both, standardised"}
    assert {name for name in CONFIGURATIONS if ":" in name} == {f"{p}: {x}" for p in ("paper", "steady") for x in parts}
    assert all(changes[0].removeprefix("preset=") in PRESETS for changes in CONFIGURATIONS.values())


def test_reading_a_run_loads_nothing_heavy() -> None:
    """The flow's own process shows figures, and `csr report` answers at once: neither pays for torch."""
    heavy = "{'torch', 'transformers', 'scipy', 'matplotlib'}"
    code = f"import sys, csr_core.report, csr_core.tables; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
