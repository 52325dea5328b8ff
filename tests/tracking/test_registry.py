"""Each content is registered once; which iteration is the best."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from csr_core.errors import SettingsError
from tasks.registry import best_iteration, model_name, set_alias
from tasks.run import Run
from tasks.tracking import tracked
from tests.tracking.conftest import client_of
from tests.tracking.world import record


def figures(**values: float | None) -> dict:
    return {"test": {name: {"value": value} for name, value in values.items()}}


def test_a_second_run_with_the_same_checkpoints_registers_none(new_run: Callable[..., Run], tmp_path: Path) -> None:
    run, ids = new_run(), []
    for cached in (False, True):
        with tracked(run) as track:
            for iteration in (0, 1):
                record(track, iteration, cached)
        ids.append(track.run_id)
    assert ids[0] != ids[1]
    client = client_of(tmp_path)
    versions = client.search_model_versions("name = 'csr'")
    assert [v.tags["iteration"] for v in versions] == ["1", "0"]
    assert len(list((tmp_path / "mlruns").rglob("*.safetensors"))) == 1
    assert client.get_model_version_by_alias("csr", "last").tags["iteration"] == "1"


def test_runs_that_set_an_alias_at_once_all_do(new_run: Callable[..., Run]) -> None:
    runs, rounds = 6, 15
    together = Barrier(runs)
    with tracked(new_run()) as track:
        record(track, 0)

        def set_it(alias: str) -> None:
            together.wait()  # MLflow looks whether the alias is there before any of the others has written it
            set_alias(track.store, "csr", alias, track.versions[0].number)

        with ThreadPoolExecutor(runs) as pool:
            for alias in (f"alias-{i}" for i in range(rounds)):
                assert list(pool.map(set_it, [alias] * runs)) == [None] * runs
        client = track.store.client
        assert {str(client.get_model_version_by_alias("csr", f"alias-{i}").version) for i in range(rounds)} == {"1"}


def test_a_guard_keeps_an_iteration_from_being_the_best(new_run: Callable[..., Run], tmp_path: Path) -> None:
    with tracked(new_run()) as track:
        for iteration, chair in enumerate((0.4, 0.2, 0.1)):
            record(track, iteration, chair=chair, stopped_by="shorter" if iteration == 2 else None)
    client = client_of(tmp_path)
    assert client.get_model_version_by_alias("csr", "best").tags["iteration"] == "1"
    runs = {k: client.get_run(track.iteration_run(k)) for k in (1, 2)}
    assert [runs[k].data.tags["stopped"] for k in (1, 2)] == ["false", "true"]
    assert runs[2].data.tags["guards_fired"] == "shorter"
    assert "**shorter**: shorter, in words." in runs[2].data.tags["mlflow.note.content"]
    assert runs[2].data.metrics["guards/repetitive"] == 0.9


def test_a_figure_that_is_not_measured_is_told_with_the_base(new_run: Callable[..., Run]) -> None:
    with (
        pytest.raises(SettingsError, match=r"evaluate.best_by is 'chair'.*expected one of chair_i"),
        tracked(new_run("evaluate.best_by=chair")) as track,
    ):
        record(track, 0)


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("chair_i", (0.3, 0.2, 0.25), 1),
        ("recall", (0.3, 0.2, 0.25), 0),  # the base: every iteration made it worse
        ("chair_i", (0.3, 0.2, 0.2), 1),
        ("chair_i", (None, None, 0.9), 2),
        ("chair_i", (None, None, None), None),
    ],
)
def test_best_iteration(name: str, values: tuple[float | None, ...], best: int | None) -> None:
    measured = {k: figures(**{name: value}) for k, value in enumerate(values)}
    assert best_iteration(measured, "test", name, lambda k: True) == best


def test_names_are_what_the_registry_takes() -> None:
    assert model_name("csr") == "csr"
    assert model_name("team/llava:7b") == "csr-team-llava-7b"
