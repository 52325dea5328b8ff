"""What makes a function a task: cached by content, retried where that can help, made again where files are gone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from prefect import task

from csr_core.errors import CsrError
from tasks.run import Run, cache_key, is_done

Stage = Callable[[int, Run], dict[str, Any]]


def stage(gpu: bool) -> Callable[[Stage], Stage]:
    """Make `function(iteration, run)`, named like its stage, a Prefect task.

    A GPU stage carries the tag `gpu`, by which a concurrency limit gives each GPU to one task at a time.
    """

    def make(function: Stage) -> Stage:
        cached = task(
            name=function.__name__,
            task_run_name=function.__name__ + "@{iteration}",
            tags=["gpu" if gpu else "cpu"],
            cache_key_fn=lambda context, given: cache_key(function.__name__, given["iteration"], given["run"]),
            persist_result=True,
            result_serializer="json",
            retries=1 if gpu else 0,
            retry_delay_seconds=5,
            retry_condition_fn=_retry_can_help,
        )(function)

        @functools.wraps(function)
        def call(iteration: int, run: Run) -> dict[str, Any]:
            # Prefect would call a task cached although the files it made were deleted or changed since.
            stale = not is_done(function.__name__, iteration, run)
            if not stale:
                print(f"{function.__name__}@{iteration}: up to date", flush=True)
            made: dict[str, Any] = cached.with_options(refresh_cache=stale)(iteration, run)
            return made

        return call

    return make


def _retry_can_help(task: Any, task_run: Any, state: Any) -> bool:
    """Retry what may pass by itself (memory, file system), not what the user must mend."""
    return not isinstance(state.result(raise_on_failure=False), CsrError)
