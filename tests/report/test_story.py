"""What the page says in words and tables is what the files say."""

from pathlib import Path

import pytest

from csr_core.layout import Layout
from csr_core.params import initial_params
from csr_core.records import write_json
from csr_core.report import conclusion, load_metrics, metrics_table, write_report
from csr_core.report.compare import compare_runs, differing
from csr_core.report.story import (
    cards,
    elsewhere,
    lines,
    mixed,
    reward_words,
    sentences,
    settings_in_force,
    split_folders,
    verdict,
)
from tests.report.made_up import metric, versus, write_iteration, write_metrics, write_pictures


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    write_metrics(layout, 2)
    return layout


@pytest.mark.parametrize(
    ("name", "difference", "p", "word"),
    [
        ("chair_i", -0.1, 0.001, "better"),
        ("chair_i", 0.1, 0.001, "worse"),
        ("recall", -0.1, 0.001, "worse"),
        ("recall", 0.1, 0.2, "no clear change"),
        ("words", -3.0, 0.001, ""),  # describes: nothing is claimed from it
        ("recall", None, None, ""),
    ],
)
def test_a_difference_is_called_one_where_p_allows(
    name: str, difference: float | None, p: float | None, word: str
) -> None:
    assert verdict(name, difference, p) == word


def test_lines_hold_values_change_and_p(layout: Layout) -> None:
    main, rest = lines(load_metrics(layout), "test")
    first = main[0]
    assert first.heading == "CHAIR_i %"
    assert first.values == ["22.0 [20.0, 24.0]", "17.0 [15.0, 19.0]", "12.0 [10.0, 14.0]"]
    assert (first.change, first.p, first.verdict) == ("-10.0 [-12.0, -8.0]", "< 0.001", "better")
    assert [line.name for line in rest] == ["kl"]
    words = [card["verdict"] for card in cards(load_metrics(layout))]
    assert words == ["better", "no clear change", "no clear change", ""]


def test_the_sentence_names_what_fell_and_how_sure_that_is(layout: Layout) -> None:
    told = conclusion(load_metrics(layout))
    assert told.startswith("Hallucinated objects fell from 22.0 % [20.0, 24.0] to 12.0 % [10.0, 14.0] of those named")
    assert "(p < 0.001); recall 97.0 % -> 95.0 %; POPE accuracy 90.0 % -> 90.0 %" in told


def test_a_stopped_iteration_is_told_with_the_last_good_one(layout: Layout, tmp_path: Path) -> None:
    write_json(layout.guards(2), [{"guard": "shorter", "fired": True, "sentence": "Answers shrink.", "value": 0.5}])
    write_json(layout.verdict(2), {"stopped": True})
    told = "But a guard stopped iteration 2 (shorter): the last good model is that of iteration 1."
    assert metrics_table(layout).endswith(told)
    write_report(layout, tmp_path / "r.html")
    assert told in (tmp_path / "r.html").read_text("utf-8")


def test_an_unclear_fall_is_called_unclear() -> None:
    runs = [
        {"test": {"chair_i": metric(0.10), "recall": metric(0.9)}},
        {"test": {"chair_i": metric(0.09, vs_base=versus(-0.01, 0.4)), "recall": metric(0.9)}},
    ]
    assert "(no clear difference: p = 0.400)" in conclusion(runs)


def test_a_benchmark_without_chair_is_told_by_its_figures() -> None:
    runs = [
        {"gqa": {"accuracy": metric(0.6)}},
        {"gqa": {"accuracy": metric(0.7, vs_base=versus(0.1, 0.0001))}},
    ]
    assert sentences(runs) == [("gqa", "accuracy % 60.0 -> 70.0 (better, p < 0.001).")]


def test_settings_are_those_the_stages_ran_with(layout: Layout) -> None:
    (layout.root / "params.yaml").write_text(initial_params("steady", {}), "utf-8")
    found, origin = settings_in_force(layout, 2)
    assert found["reward.image_weight"] == 0.9
    assert "params.yaml as it is now" in origin
    for k in (1, 2):
        stamp = {"key": "", "outputs": {"data/x": "abc"}, "summary": {}, "seconds": 1.0}
        part = {"reward": {"image_weight": 0.5}, "seed": 3, "iteration": k}
        write_json(layout.state / "stamps" / f"score@{k}.json", stamp | {"settings": part})
        data = {"prompts": "mine.json", "seed": 3, "iteration": k}
        write_json(layout.state / "stamps" / f"prepare@{k}.json", stamp | {"settings": data})
    found, origin = settings_in_force(layout, 2)
    assert found == {"reward.image_weight": 0.5, "seed": 3, "data.prompts": "mine.json"}
    assert "noted" in origin


def test_iterations_of_two_runs_are_told_apart(layout: Layout, tmp_path: Path) -> None:
    weights = {1: 0.5, 2: 0.9}  # a run of one iteration over the files of one of two
    for k, weight in weights.items():
        stamp = {"key": "", "outputs": {}, "summary": {}, "seconds": 1.0}
        reward = {"reward": {"image_weight": weight}, "seed": 3}
        write_json(layout.state / "stamps" / f"score@{k}.json", stamp | {"settings": reward})
        data = {"prompts": "mine.json", "iteration": k}
        write_json(layout.state / "stamps" / f"prepare@{k}.json", stamp | {"settings": data})
    told = mixed(layout, 2)
    assert "iteration 2 and later were made with another reward.image_weight" in told
    assert "`csr report --iterations 1` leaves them out" in told
    write_report(layout, tmp_path / "r.html")
    assert told in (tmp_path / "r.html").read_text("utf-8")
    assert mixed(layout, 1) == ""


def test_splits_are_found_in_the_run_or_where_they_are_named(layout: Layout, tmp_path: Path) -> None:
    settings = {"evaluate.splits.test.folder": "miniature:test", "evaluate.splits.own.folder": str(tmp_path / "own")}
    assert split_folders(layout, settings) == {"test": layout.splits / "test", "own": tmp_path / "own"}


def test_two_runs_are_compared_picture_by_picture(tmp_path: Path) -> None:
    """20 pictures with one object each: here one names something wrong, there eleven."""
    from csr_core.evaluation.counts import write_counts
    from csr_core.evaluation.statistics import Item

    runs = {}
    for name, wrong in (("here", 1), ("there", 11)):
        layout = Layout(tmp_path / name)
        items = [Item(n, n, {"chair_i": (float(n < wrong), 1.0), "words": (5.0, 1.0)}) for n in range(20)]
        write_counts(layout.answers(1), {"test": items})
        figures = {"chair_i": metric(wrong / 20), "recall": metric(0.9), "words": metric(5.0)}
        runs[name] = (layout, [{"test": figures}, {"test": figures}])
    contrasts, why_not = compare_runs(*runs["here"], *runs["there"])
    assert why_not == ""
    first = contrasts[0]
    assert (first.split, first.heading, first.verdict) == ("test", "CHAIR_i %", "better")
    assert first.change.startswith("-50.0 [")
    assert [(one.heading, one.verdict) for one in contrasts[1:]] == [("words", "")]
    assert compare_runs(*runs["here"], Layout(tmp_path / "none"), runs["there"][1])[0] == []


def test_settings_that_differ_are_named() -> None:
    runs = {"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 4}
    assert differing(*runs) == [("b", 2, 3), ("c", None, 4)]
    assert differing(*runs, alike=False) == [("b", 2, 3)]


def test_the_page_of_two_runs_names_both(layout: Layout, tmp_path: Path) -> None:
    other = Layout(tmp_path / "half")
    write_metrics(other, 1)
    write_report(layout, tmp_path / "r.html", others={"half": other})
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "Beside other runs" in page
    assert "half" in page


def test_a_page_can_be_written_of_the_base_alone_and_of_one_without_pictures(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_metrics(layout, 0)
    write_report(layout, tmp_path / "r.html")
    write_metrics(layout, 1)
    pictures = write_pictures(tmp_path / "pictures", 2)
    write_iteration(layout, 1, 4, pictures)
    for picture in pictures:
        Path(picture).unlink()
    write_report(layout, tmp_path / "r.html")
    assert "all" not in (tmp_path / "r.html").read_text("utf-8").split("<title>")[1].split("</title>")[0]


def test_rewards_are_explained_by_the_settings_in_force() -> None:
    settings = {
        "reward.image_weight": 0.9, "reward.likelihood": "probability", "reward.relevance_floor": True,
        "reward.repeats_earn_nothing": True, "pair.path_score": "threshold_sum", "pair.threshold": 0.67,
    }  # fmt: skip
    reward, score = reward_words(settings)
    assert "R = 0.9 R_I + 0.1 R_T" in reward
    assert "at least 0" in reward
    assert "said before in the same answer earns 0" in reward
    assert "each less 0.67 times the best reward of the picture" in score
    assert reward_words({}) == []
    assert "rank" in reward_words({"reward.image_weight": 0.9, "reward.combine": "rank"})[0]


def test_figures_of_drawn_pictures_are_not_taken_for_those_of_ones_own(layout: Layout, tmp_path: Path) -> None:
    own = {"data.prompts": "photos", "evaluate.splits.test.folder": "miniature:test"}
    assert "not of yours" in elsewhere(own)
    assert elsewhere({**own, "data.prompts": "miniature"}) == ""
    assert elsewhere({**own, "evaluate.splits.test.folder": "heldout"}) == ""
    changes = {"data.prompts": "photos"}
    (layout.root / "params.yaml").write_text(initial_params("steady", changes), "utf-8")
    write_report(layout, tmp_path / "r.html")
    assert "The figures are of drawn pictures" in (tmp_path / "r.html").read_text("utf-8")
