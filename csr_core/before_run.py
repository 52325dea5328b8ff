"""What is certain to fail hours into a run, found in seconds before it: files, prompts, models. Nothing is fetched."""

from __future__ import annotations

from pathlib import Path

from csr_core.checks import refuse_missing_files
from csr_core.config import DataSettings, Settings
from csr_core.errors import InputError
from csr_core.prompt_sources import is_read_soon
from csr_core.prompts import MINIATURE, prompts_of


def refuse_before_run(settings: Settings) -> None:
    """Refuse what no stage could work with.

    Raises:
        SettingsError: files that the settings name are missing.
        InputError: no prompt is usable, or a model is neither on this machine nor to be had from the hub.
    """
    refuse_missing_files(settings)
    if set(range(1, settings.iterations + 1)) <= set(settings.pair.imported):
        return _refuse_absent_policy(settings)  # nothing is asked and nothing rewarded
    refuse_no_prompts(settings.data)
    _refuse_absent_policy(settings)
    _refuse_absent_reward_model(settings)


def refuse_no_prompts(data: DataSettings) -> None:
    """Raise an InputError where no prompt is usable; no picture is opened, and no large data set read."""
    if data.prompts == MINIATURE or not is_read_soon(data.prompts):
        return
    rows = prompts_of(data).rows
    if not any(Path(row["image"]).exists() for row in rows):
        from csr_core.picture_checks import elsewhere

        place = elsewhere(data, [Path(row["image"]) for row in rows])
        raise InputError(
            f"no prompt of {data.prompts} has its picture: there is no {rows[0]['image']}; set data.images to the "
            f"folder that their paths begin in{f', which is {place}' if place else ''}"
        )


def _refuse_absent_policy(settings: Settings) -> None:
    name = settings.model.path
    if name == MINIATURE or Path(name).is_dir() or settings.run.task_runner == "ray":  # another node's may be there
        return
    from csr_core.policy.sources import cached, problem

    if cached(name, settings.model.revision) is None and (reason := problem(name, settings.model.revision)):
        raise InputError(f"cannot load the model {name}: {reason}")


def _refuse_absent_reward_model(settings: Settings) -> None:
    if settings.run.task_runner == "ray" or not any(":" in name for name in settings.reward.models):
        return
    from csr_core.reward.source import unreachable

    if todo := unreachable(settings.reward):
        raise InputError(todo)
