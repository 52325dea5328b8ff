"""Pictures of data that is not as nice as usual."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from csr_core.records import PREFERENCES, read_table, write_table
from csr_core.report import plot_answers, plot_metrics
from csr_core.report.sample import spread
from tasks.figures import some_pairs
from tasks.run import Run
from tasks.tracking import tracked
from tests.tracking.conftest import client_of
from tests.tracking.world import made, make_run, write_preferences


@pytest.fixture
def pairs(tmp_path: Path) -> list[dict[str, Any]]:
    run = make_run(tmp_path)
    write_preferences(run.layout, 1)
    return read_table(run.layout.preferences(1), PREFERENCES)


def size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        return picture.size


def test_a_picture_that_is_gone_leaves_its_place_empty(pairs: list[dict[str, Any]], tmp_path: Path) -> None:
    whole = some_pairs(pairs, tmp_path, "iteration 1")
    Path(pairs[0]["images"][0]).unlink()
    without = some_pairs(pairs, tmp_path, "iteration 1")
    assert size(whole) == size(without)
    assert whole != without


def test_one_pair_and_equal_rewards_can_be_drawn(pairs: list[dict[str, Any]], tmp_path: Path) -> None:
    one = [{**pairs[0], "chosen_reward": 1.0, "rejected_reward": 1.0}]
    assert min(size(plot_answers({"iteration 1": one}))) > 300
    assert min(size(some_pairs(one, tmp_path, "iteration 1"))) > 200


def test_intervals_that_miss_their_value_or_were_not_computed_can_be_drawn() -> None:
    nothing = {"value": None, "low": None, "high": None}
    beside = {"value": 0.5, "low": 0.6, "high": 0.7}
    unknown = {"value": 0.0, "low": None, "high": None}
    figures = [{"test": {"chair_i": nothing, "recall": beside, "pope_accuracy": unknown}}] * 2
    assert min(size(plot_metrics({"run": figures}, "test"))) > 300


@pytest.mark.parametrize(
    ("count", "shown"), [(1, [0]), (4, [0, 1, 2, 3]), (5, [0, 1, 3, 4]), (7, [0, 2, 4, 6]), (100, [0, 33, 66, 99])]
)
def test_pairs_are_taken_from_the_largest_to_the_smallest_margin(count: int, shown: list[int]) -> None:
    assert spread(range(count), 4) == shown


def test_a_picture_that_cannot_be_drawn_does_not_end_the_run(
    new_run: Callable[..., Run], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = new_run()
    write_preferences(run.layout, 1)
    table = read_table(run.layout.preferences(1), PREFERENCES)
    broken = [{**row, "chosen_reward": float("nan")} for row in table]
    write_table(run.layout.preferences(1) / "preferences.parquet", broken, PREFERENCES)
    with tracked(run) as track, track.stage("pair", 1) as child:
        child.finished(made(run, "pair", 1), None)
    assert "figures/rewards_iter_1.png could not be drawn" in caplog.text
    client = client_of(tmp_path)
    assert client.get_run(track.run_id).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(track.run_id, "figures")] == ["figures/pairs_iter_1.png"]
