"""The command line. Only the standard library and typer are imported here: `csr --help` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli_benchmarks import list_benchmarks, lmms_eval, score
from flows.cli_exchange import export_app, import_app
from flows.cli_models import chat, export_model, push
from flows.cli_presets import presets
from flows.cli_report import report, show_report, where_else_to_look
from flows.cli_reward import reward_app
from flows.cli_table import seeds, table

app = typer.Typer(
    help="Calibrated Self-Rewarding for vision-language models: fewer hallucinations, without labels or a teacher.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
evaluate_app = typer.Typer(help="Measure answers that are already written, on benchmarks over local files.")
evaluate_app.callback(invoke_without_command=True)(list_benchmarks)
evaluate_app.command()(score)
evaluate_app.command("lmms-eval")(lmms_eval)
miniature_app = typer.Typer(help="The tiny world with its tiny models.", no_args_is_help=True)
app.command()(presets)
app.add_typer(evaluate_app, name="evaluate")
app.add_typer(miniature_app, name="miniature")
export_app.command("model")(export_model)
app.add_typer(export_app, name="export")
app.add_typer(import_app, name="import")
app.add_typer(reward_app, name="reward")

Params = Annotated[Path, typer.Option(help="The settings file.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON: name: {value, low, high, n}.")]


@app.command()
def init(
    preset: Annotated[str, typer.Option(help="The one dial: a name of `csr presets`.")] = "steady",
    model: Annotated[str | None, typer.Option(help="A checkpoint's folder, a Hugging Face name, or miniature.")] = None,
    prompts: Annotated[str | None, typer.Option(help="Prompts: a file, a folder or hf://OWNER/NAME.")] = None,
    images: Annotated[str | None, typer.Option(help="Folder of the pictures.")] = None,
    reward_model: Annotated[str | None, typer.Option(help="open_clip folder, or NAME:PRETRAINED.")] = None,
    params: Params = Path("params.yaml"),
    force: Annotated[bool, typer.Option(help="Overwrite an existing file.")] = False,
    names: Annotated[bool, typer.Option("--list", help="Only list the presets, as `csr presets` does.")] = False,
) -> None:
    """Write params.yaml: every setting with its meaning."""
    from csr_core.checks import missing_files
    from csr_core.dvcfile import render
    from csr_core.errors import SettingsError
    from csr_core.params import initial_params, load_settings

    if names:
        presets()
        return
    options = {"model.path": model, "data.prompts": prompts, "data.images": images, "reward.model": reward_model}
    given = {key: value for key, value in options.items() if value is not None}
    text = initial_params(preset, given)
    if params.exists() and not force:
        raise SettingsError(f"{params} is there already: --force overwrites it, --params FILE writes another")
    params.write_text(text, "utf-8")
    stages = params.parent / "dvc.yaml"
    if (
        stages.is_file() and params.name == "params.yaml"
    ):  # its dependencies are the models and the data of the settings
        stages.write_text(render(load_settings(params), params.parent), "utf-8")
        print(f"wrote {stages}")
    for problem in missing_files(load_settings(params)):
        if problem.partition(":")[0] in given:
            print(f"not there yet: {problem}", file=sys.stderr)
    print(f"wrote {params}; next: csr check, then csr run")


@app.command()
def check(
    params: Params = Path("params.yaml"),
    overrides: Overrides = None,
    trial: Annotated[bool, typer.Option(help="Try a few prompts for the time, and the reward model.")] = True,
) -> None:
    """Everything that can be known before a run."""
    from csr_core.checks import check as findings
    from csr_core.finding import Finding, verdict
    from csr_core.params import load_settings

    settings = load_settings(params, overrides or [])
    told = [Finding(True, "settings", f"{params}, preset {settings.preset}")]
    print(told[0], flush=True)
    for finding in findings(settings, trial):
        told.append(finding)
        print(finding, flush=True)
    print(verdict(told))
    if not all(finding.ok for finding in told):
        raise typer.Exit(1)


@app.command()
def run(
    iterations: Annotated[int | None, typer.Option(min=1, help="Default: the number in the settings.")] = None,
    params: Params = Path("params.yaml"),
    overrides: Overrides = None,
    root: Annotated[Path, typer.Option(help="Folder of all outputs: another one keeps an earlier run.")] = Path(),
) -> None:
    """Run the iterations as the Prefect flow, on its server or without one; print the table and write the report."""
    from csr_core.before_run import refuse_before_run
    from csr_core.evaluation.measured import measured_elsewhere
    from csr_core.layout import Layout
    from csr_core.params import load_settings
    from flows.stopping import told_when_stopped
    from flows.weak_reward import refuse_weak_reward

    settings = load_settings(params, overrides or [])
    folders = [split.folder for split in settings.evaluate.splits.values()]
    if elsewhere := measured_elsewhere(settings.data.prompts, folders):
        print(elsewhere, file=sys.stderr, flush=True)
    refuse_before_run(settings)
    with told_when_stopped():
        refuse_weak_reward(params, overrides or [])
    with told_when_stopped(), _prefect():
        from flows.iterate import csr
        from tasks.run import Run
        from tasks.session import get_ready

        get_ready(Run(params, tuple(overrides or ()), layout=Layout(root)), iterations)  # while Prefect's server starts
        csr(iterations=iterations, params=str(params), overrides=overrides or [], root=str(root))
    show_report([root], None, iterations or settings.iterations)
    print(where_else_to_look(settings.tracking, root), flush=True)
    if elsewhere:  # beside the table, where it is read
        print(elsewhere, file=sys.stderr)


@app.command()
def up(
    prefect_port: Annotated[int | None, typer.Option(help="Default: as in prefect.toml or PREFECT_API_URL.")] = None,
    mlflow_port: Annotated[int | None, typer.Option(help="Default: 5000.")] = None,
) -> None:
    """Start Prefect server, MLflow server and a worker on this machine, and register the deployments."""
    from flows.services import up as start_services

    start_services(prefect_port, mlflow_port)


@app.command()
def down() -> None:
    """Stop what `csr up` started in this folder, and nothing else."""
    from flows.services import down as stop_services

    stop_services()


@app.command()
def stage(
    name: Annotated[str, typer.Argument(help="prepare, generate, score, pair, finetune, evaluate or guard.")],
    iteration: Annotated[int, typer.Option(help="1, 2, ...; 0 is the base model (prepare, evaluate).")],
    params: Params = Path("params.yaml"),
    overrides: Overrides = None,
) -> None:
    """Run one stage; nothing happens where its outputs are up to date."""
    from csr_core.stages.__main__ import main as run_stage_main

    arguments = [name, "--iteration", str(iteration), "--params", str(params)]
    for change in overrides or []:
        arguments += ["--set", change]
    raise typer.Exit(run_stage_main(arguments))


@app.command()
def ablate(
    seeds: Annotated[int, typer.Option(min=1, help="Whole runs of each configuration.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side, each with its share of the cores.")] = 2,
    only: Annotated[list[str] | None, typer.Option(help="Names of configurations; default: all.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs, the table and the plot.")] = Path("ablation"),
    params: Params = Path("params.yaml"),
    overrides: Overrides = None,
) -> None:
    """What each part of the reward does: image alone, likelihood alone, both; under each preset."""
    from csr_core.ablation import ablate as run_ablation

    run_ablation(params, tuple(overrides or ()), seeds, jobs, only, out)


@evaluate_app.command("chair")
def evaluate_chair(
    captions: Annotated[Path, typer.Option(help="JSONL rows: image_id, caption.")],
    instances: Annotated[Path, typer.Option(help="COCO instances JSON.")],
    reference_captions: Annotated[Path | None, typer.Option(help="COCO captions JSON, folded into the truth.")] = None,
    as_json: AsJson = False,
) -> None:
    """CHAIR: which objects that captions name are not in the picture."""
    from csr_core.evaluation.cli import evaluate_chair as measure

    _print_metrics(measure(captions, instances, reference_captions), as_json)


@evaluate_app.command("pope")
def evaluate_pope(
    answers: Annotated[Path, typer.Option(help="JSONL rows: question_id, text or answer.")],
    questions: Annotated[list[Path], typer.Option(help="POPE's question files.")],
    as_json: AsJson = False,
) -> None:
    """POPE: yes/no questions about objects that are and are not there."""
    from csr_core.evaluation.cli import evaluate_pope as measure

    _print_metrics(measure(answers, questions), as_json)


@miniature_app.command("build")
def miniature_build(
    out: Annotated[Path, typer.Option(help="Folder for llava/ and clip/.")] = Path("models/miniature"),
    seed: Annotated[int, typer.Option(help="Another seed makes another base model.")] = 0,
    scale: Annotated[float, typer.Option(help="Share of the training; below 1 the quality gates are off.")] = 1.0,
) -> None:
    """Make the tiny CLIP and the tiny LLaVA anew (about 10 minutes on 2 cores)."""
    from csr_core.miniature.build import build

    build(out, seed=seed, scale=scale)


@miniature_app.command("sample")
def miniature_sample(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    split: Annotated[str, typer.Option(help="train, validation, test or shifted.")] = "test",
    count: Annotated[int, typer.Option(min=1, help="Scenes.")] = 20,
    seed: int = 0,
    iteration: int = 0,
) -> None:
    """Draw scenes with captions and questions, in COCO's and POPE's formats."""
    from csr_core.miniature.dataset import write_split

    write_split(out, split, count=count, seed=seed, iteration=iteration)
    print(f"wrote {count} scenes to {out}")


app.command()(report)
app.command()(chat)
app.command()(push)
app.command()(table)
app.command()(seeds)


@contextmanager
def _prefect() -> Iterator[None]:
    """Use the configured Prefect server where it answers, else a temporary one that starts with the flow."""
    import os

    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "true")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_HOME", str(Path(".prefect").resolve()))
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "WARNING")  # the stages print for themselves
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.services import answers
    from flows.stopping import keep_handler, spare_the_server
    from tasks.console import tell_mistakes_once

    tell_mistakes_once()
    keep_handler()
    url = PREFECT_API_URL.value()
    if url and answers(f"{url}/health"):
        yield
        return
    if url:
        told = f"Prefect: a temporary server for this run (none answers at {url}; `csr up` starts one that stays)"
        print(told, file=sys.stderr)
    spare_the_server()
    # An empty address in the environment would do for the flow, but not for its events.
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        yield


def _print_metrics(metrics: dict[str, Any], as_json: bool) -> None:
    import json

    from csr_core.evaluation.cli import format_table

    print(json.dumps(metrics, indent=2) if as_json else format_table(metrics))


def main() -> None:
    """Entry point of `csr`: errors that are the user's to mend are told in words, without a traceback."""
    try:
        app()
    except Exception as error:
        # csr_core is imported only now, so that a start without an error does not pay for it.
        from csr_core.errors import CsrError

        if not isinstance(error, CsrError):
            raise
        print(f"csr: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
