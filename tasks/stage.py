"""What makes a function a stage of the flow: cached by content, in shards, retried where that can help, recorded."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from prefect import get_run_logger, task
from prefect.runtime import task_run
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from csr_core.errors import CsrError, OutOfMemoryError
from csr_core.progress import counting
from csr_core.stages.__main__ import describe
from csr_core.stages.costs import stage_costs, times_text
from csr_core.stages.runner import StageResult, missing_shards, note_found, note_whole, run_stage, shard_is_done
from tasks import runners
from tasks.artifacts import StageProgress, show_costs
from tasks.console import say
from tasks.process import run_process
from tasks.run import Run, as_json
from tasks.session import recorded

Stage = Callable[[int, Run], dict[str, Any]]
BACKOFF_SECONDS = 2.0  # before the first retry; doubled for each further one


def stage(gpu: bool) -> Callable[[Stage], Stage]:
    """Make `function(iteration, run)`, named like its stage, a stage of the flow, and its body a Prefect task.

    `gpu`: the stage holds one, fine-tuning several. Which, and that they are its alone, its process settles
    (`csr_core.stages.gpus`).
    """

    def make(function: Stage) -> Stage:
        name = function.__name__
        whole = task(
            name=name,
            task_run_name=name + "@{iteration}",
            cache_key_fn=lambda context, given: given["run"].key(given["run"].call(name, given["iteration"])),
            **_options(),
        )(function)

        @functools.wraps(function)
        def call(iteration: int, run: Run) -> dict[str, Any]:
            planned = run.call(name, iteration)
            with recorded(name, iteration, run) as record, StageProgress(planned, run.layout) as progress:
                started = time.monotonic()
                with progress.checking():
                    before = run.result(planned)
                done, shards = before is not None, {}
                if not done and planned.shards is not None:
                    count, missing = planned.shards.count(), missing_shards(planned, run.layout)
                    progress.display.expect(*planned.shards.extent(missing))
                    progress.wait(_submit_shards(name, iteration, run, gpu, count, set(missing)))
                    shards = {"workers": min(count, run.settings.run.workers), "resumed": len(missing) < count}
                # Prefect would call a task cached although the files it made were deleted or changed since.
                retries = run.settings.run.retries if gpu else 0
                todo = whole.with_options(refresh_cache=not done, retries=retries)
                gpus = (run.settings.run.num_processes or 1) if name == "finetune" else int(gpu)
                made: dict[str, Any] = progress.wait([_submit(todo, gpus, iteration=iteration, run=run)])[0]
                if before is not None:  # Prefect's record may be of another day
                    made = as_json(before)
                    note_found(before, run.layout)
                else:
                    progress.made = True
                    made = {**made, "seconds": round(time.monotonic() - started, 1)}
                    note_whole(planned, run.layout, made["seconds"], **shards)
                progress.display.close()
                _tell(before or run.result(planned), done, "" if done else progress.display.told())
                record(made)
            return made

        return call

    return make


def _tell(result: StageResult | None, done: bool, told: str) -> None:
    """Say in the terminal and in the run's log what became of a stage, and what was left out."""
    if result is not None:
        text = describe(replace(result, cached=done, told=told))
        say(text)
        get_run_logger().info(text)


def tell_times(iterations: int, run: Run) -> None:
    """Say in one line what each stage took; Prefect's page has it as a table, with items and memory."""
    found = [row for row in stage_costs(run.layout) if row["iteration"] <= iterations]
    show_costs(found)
    text = times_text(found)
    say(text)
    get_run_logger().info(text)


def in_process(name: str, iteration: int, run: Run) -> dict[str, Any] | Any:
    """The body of a heavy stage: what its shards made is put together, or all is done, in a process of its own."""
    call = run.call(name, iteration)
    if result := run.result(call):
        return Completed(name="Cached", message="up to date: made by another driver", data=as_json(result))
    alone = run.settings.run.workers if call.shards is not None else 0
    order = run.order(name, iteration, halved=_out_of_memory_before(), beside=alone)
    run_process(order, run.folder, StageProgress.file(run.layout, call.label))
    result = run.result(call)
    if result is None:
        raise RuntimeError(f"{call.label} ended without its outputs: see what it printed above")
    return as_json(result)


def here(name: str, iteration: int, run: Run) -> dict[str, Any] | Any:
    """The body of a light stage, in this process."""
    call = run.call(name, iteration)
    with counting(StageProgress.file(run.layout, call.label)):
        result = run_stage(call, run.layout)
    made = as_json(result)
    return Completed(name="Cached", message="up to date: made by another driver", data=made) if result.cached else made


def retry_can_help(task: Any, task_run: Any, state: Any) -> bool:
    """Retry what may pass by itself or with a smaller batch, not what the user must mend."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, OutOfMemoryError) or not isinstance(error, CsrError)


def _options() -> dict[str, Any]:
    return {
        "persist_result": True,
        "result_serializer": "json",
        "retry_delay_seconds": exponential_backoff(backoff_factor=BACKOFF_SECONDS),
        "retry_condition_fn": retry_can_help,
    }


def _submit(task: Any, gpus: int, **parameters: Any) -> Any:
    return runners.submit(task, parameters, gpus)


def _submit_shards(name: str, iteration: int, run: Run, gpu: bool, count: int, missing: set[int]) -> list[Any]:
    """Hand over every shard; those that a killed run finished are found cached."""
    base = shard.with_options(name=f"{name} shard", retries=run.settings.run.retries if gpu else 0)
    return [
        _submit(task, int(gpu), name=name, iteration=iteration, number=n, of=count, run=run)
        for n, task in enumerate(base.with_options(refresh_cache=n in missing) for n in range(count))
    ]


def _shard_key(context: Any, given: dict[str, Any]) -> str:
    call = given["run"].call(given["name"], given["iteration"])
    return f"{given['run'].key(call)}-{call.shards.cut}-{given['number']}"


@task(task_run_name="{name}@{iteration} shard {number} of {of}", cache_key_fn=_shard_key, **_options())
def shard(name: str, iteration: int, number: int, of: int, run: Run) -> dict[str, Any] | Any:
    """One shard of a stage, in a process of its own; shards are numbered from 0."""
    call = run.call(name, iteration)
    made = {"label": call.label, "shard": number}
    if shard_is_done(call, run.layout, number):
        return Completed(name="Cached", message="finished by an earlier run", data=made)
    beside = min(of, run.settings.run.workers)
    order = run.order(name, iteration, number, _out_of_memory_before(), beside)
    run_process(order, run.folder, StageProgress.file(run.layout, call.label, number))
    return made


def _out_of_memory_before() -> int:
    """How often to halve the batches. Which attempt ran out of memory is not known; a smaller batch never hurts."""
    return max(0, int(task_run.run_count or 1) - 1)
