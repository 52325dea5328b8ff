"""What Prefect hands stages and their shards to: threads or processes of this machine, or a Ray cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from csr_core.config import RunSettings
from csr_core.errors import SettingsError
from tasks.console import tell_mistakes_once
from tasks.interrupts import end_without_a_word

_runner: ContextVar[Any] = ContextVar("runner")


@contextmanager
def task_runner(settings: RunSettings) -> Iterator[None]:
    """Open the task runner of the settings for all stages of a flow.

    Raises:
        SettingsError: Ray is asked for and not installed.
    """
    with _make(settings) as runner:
        token = _runner.set(runner)
        try:
            yield
        finally:
            _runner.reset(token)


def submit(task: Any, parameters: dict[str, Any], gpus: int) -> Any:
    """Hand a task to the flow's runner; returns Prefect's future. It takes so many of Ray's GPUs.

    Tasks carry no tags: for each tagged one Prefect asks its server for a concurrency slot, which takes up to 2 s.
    """
    with _gpus_each(gpus):
        return _runner.get().submit(task, parameters)


def _gpus_each(wanted: int) -> AbstractContextManager[Any]:
    """On a Ray cluster with GPUs, Ray must know who needs one to spread tasks over the nodes that have them."""
    ray = sys.modules.get("ray")
    if not wanted or ray is None or not ray.is_initialized() or not ray.cluster_resources().get("GPU"):
        return nullcontext()
    from prefect_ray.context import remote_options

    options: AbstractContextManager[Any] = remote_options(num_gpus=wanted)
    return options


def _make(settings: RunSettings) -> Any:
    if settings.task_runner == "threads":
        from prefect.task_runners import ThreadPoolTaskRunner

        return ThreadPoolTaskRunner(max_workers=settings.workers)
    if settings.task_runner == "processes":
        from prefect.task_runners import ProcessPoolTaskRunner

        return ProcessPoolTaskRunner(max_workers=settings.workers, initializer=_quiet)
    if not settings.ray_address:
        # A cluster of this machine alone: on loopback, and without reports on its use.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        from prefect_ray import RayTaskRunner
    except ImportError as error:
        raise SettingsError(
            f"run.task_runner is 'ray', which is not installed ({error}): pip install 'csr-pipeline[ray]', or set "
            "it to threads or processes"
        ) from error
    if settings.ray_address:
        return RayTaskRunner(address=settings.ray_address)
    return RayTaskRunner(init_kwargs={"num_cpus": settings.workers, "include_dashboard": False, "log_to_driver": True})


def _quiet() -> None:
    """In a process of the task runner: what ends the run is told by the process of the flow."""
    end_without_a_word()
    tell_mistakes_once()
