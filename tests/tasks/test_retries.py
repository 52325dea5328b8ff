"""Which failures of a stage are tried again, with what batch; on a real Prefect server of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect import flow
from prefect.runtime import task_run
from prefect.testing.utilities import prefect_test_harness

from csr_core.config import RunSettings
from csr_core.errors import CsrError, InputError, OutOfMemoryError
from csr_core.layout import Layout
from csr_core.params import preset_values, render_params
from tasks import stage as stage_module
from tasks.run import Run
from tasks.runners import task_runner


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[None]:
    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in which fine-tuning of iteration 1 could begin."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage_module, "BACKOFF_SECONDS", 0.1)
    Path("params.yaml").write_text(render_params(preset_values("steady")))
    for folder in (Layout().prompts(1), Layout().preferences(1)):
        folder.mkdir(parents=True)
        (folder / "table.parquet").write_bytes(b"content")
    return Run(Path("params.yaml"))


def attempts(run: Run, errors: list[Exception], gpu: bool = True) -> tuple[list[int], Any]:
    """Run a stage that fails with `errors`, one an attempt, then succeeds: (halvings of each attempt, its result)."""
    halved: list[int] = []

    def finetune(iteration: int, run: Run) -> dict[str, Any]:
        halved.append(stage_module._out_of_memory_before())
        if len(halved) <= len(errors):
            raise errors[len(halved) - 1]
        return {"label": f"finetune@{iteration}", "attempt": task_run.run_count}

    call = stage_module.stage(gpu)(finetune)

    @flow(persist_result=False)
    def one_stage() -> Any:
        with task_runner(RunSettings()):
            try:
                return call(1, run)
            except (CsrError, RuntimeError, OSError) as error:
                return type(error).__name__

    return halved, one_stage()


def test_out_of_memory_is_tried_again_with_half_the_batch_each_time(run: Run) -> None:
    halved, made = attempts(run, [OutOfMemoryError("full"), OutOfMemoryError("full")])
    assert halved == [0, 1, 2]
    assert made["attempt"] == 3


def test_a_flaky_file_system_is_tried_again(run: Run) -> None:
    halved, made = attempts(run, [OSError("stale file handle")])
    assert len(halved) == 2
    assert made["attempt"] == 2


def test_what_the_user_must_mend_is_not_tried_again(run: Run) -> None:
    halved, made = attempts(run, [InputError("no such picture")])
    assert (halved, made) == ([0], "InputError")


def test_retries_end(run: Run) -> None:
    halved, made = attempts(run, [OutOfMemoryError("full")] * 5)
    assert (halved, made) == ([0, 1, 2], "OutOfMemoryError")


def test_a_stage_that_was_done_under_prefect_is_cached_unless_its_files_changed(run: Run) -> None:
    """The task says what it made; whether that is still there decides, not Prefect's record."""
    first, _ = attempts(run, [])
    second, _ = attempts(run, [])  # the body left no files: nothing is up to date
    assert (len(first), len(second)) == (1, 1)
