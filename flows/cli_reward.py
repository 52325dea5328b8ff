"""`csr reward check`: the reward model on trial, before anything is trained on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from csr_core.reward.trial import Trial

reward_app = typer.Typer(help="The reward model.", no_args_is_help=True)

WORST = 10  # objects that are shown ...
FEW = 20  # ... of those with as many pairs: what fewer say is chance


@reward_app.command("check")
def reward_check(
    instances: Annotated[
        Path | None, typer.Option(help="COCO instances JSON; default: what the settings lead to.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of its pictures; default: images/ beside it.")] = None,
    count: Annotated[int | None, typer.Option(min=2, help="Pictures; default: 500, or 300 drawn scenes.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Exit with 0 also where the model is refused.")] = False,
    short: Annotated[
        bool, typer.Option("--short", help="As before a run: fewer pictures, remembered in .csr.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, all objects in it.")] = False,
    params: Annotated[Path, typer.Option(help="The settings file.")] = Path("params.yaml"),
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")] = None,
) -> None:
    """How often this CLIP puts a true sentence above a false one on this data; exit status 1 where it is refused."""
    import json

    from csr_core.errors import InputError, SettingsError
    from csr_core.layout import Layout
    from csr_core.params import load_settings
    from csr_core.reward.trial_data import NO_ANNOTATIONS, PICTURES, annotated_data, find_data, try_model
    from csr_core.reward.verdict import refusal, short_trial

    settings = load_settings(params, overrides or [])
    if short and (instances or count):
        raise SettingsError(
            "--short takes data and pictures as before a run: leave out --instances and --count, or --short"
        )
    if images and not instances:
        raise SettingsError("--images is the folder of the pictures of --instances FILE: give that too")
    if short:
        trial = short_trial(settings, Layout().state)
    else:
        data = (
            annotated_data(instances, images, count or PICTURES, settings.data.max_pixels)
            if instances
            else find_data(settings, count)
        )
        trial = try_model(settings, data) if data else None
    if trial is None:
        raise InputError(NO_ANNOTATIONS)
    print(json.dumps(trial.as_dict(), indent=2) if as_json else _told(trial))
    if trial.passed:
        return
    typer.echo(f"\nREFUSED: {refusal(trial)}", err=as_json)
    if not (force or settings.reward.allow_weak):
        raise typer.Exit(1)


def _told(trial: Trial) -> str:
    from csr_core.evaluation.cli import format_table

    objects = [name for name in trial.figures if name.startswith("object: ")]
    worst = [name for name in objects if trial.figures[name].n >= FEW][:WORST]
    shown = [name for name in trial.figures if name not in objects or name in worst]
    lines = [f"{trial.model} on {trial.data}: pairs in which the true sentence has the higher relevance, percent", ""]
    lines.append(format_table({name: trial.figures[name].as_dict() for name in shown}))
    if len(objects) > len(worst):
        lines.append(
            f"{len(objects) - len(worst)} more objects: with more accuracy, or fewer than {FEW} pairs (--json)"
        )
    for item in trial.left_out[:10]:
        lines.append(f"left out {item['prompt_id']}: {item['reason']}")
    if len(trial.left_out) > 10:
        lines.append(f"left out {len(trial.left_out) - 10} more")
    return "\n".join([*lines, "", "passed" if trial.passed else "not passed"])
