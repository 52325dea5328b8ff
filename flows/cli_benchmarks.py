"""`csr evaluate --list`, `score` and `lmms-eval`: benchmarks over local files, and any task of lmms-eval."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_root import Params as ParamsOfRun
from flows.cli_root import Root, settings_file

Params = Annotated[Path, typer.Option(help="The settings file.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")]


def list_benchmarks(
    context: typer.Context,
    listed: Annotated[
        bool, typer.Option("--list", help="Which benchmarks there are, and which files are missing.")
    ] = False,
    params: Params = Path("params.yaml"),
) -> None:
    """Measure answers that are already written; say which benchmarks there are."""
    if context.invoked_subcommand is not None:
        return
    if not listed:
        print(context.get_help())
        raise typer.Exit(0)
    from csr_core.evaluation.listing import listing
    from csr_core.params import load_settings

    print(listing(load_settings(params).evaluate.benchmarks if params.is_file() else {}))


def score(
    name: Annotated[str, typer.Argument(help="The benchmark: mme, gqa, ... (csr evaluate --list).")],
    answers: Annotated[Path, typer.Option(help="JSONL rows: key, answer, as in data/iter_K/answers.")],
    folder: Annotated[Path, typer.Option(help="The benchmark's folder.")],
    judge_url: Annotated[str | None, typer.Option(help="Of an OpenAI-compatible endpoint, such as .../v1.")] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's name there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: name: {value, low, high, n}.")] = False,
) -> None:
    """Score a benchmark's answers that are already written; judgements that are missing are asked for."""
    import json

    from csr_core.errors import SettingsError
    from csr_core.evaluation.cli import format_table
    from csr_core.evaluation.listing import score_answers
    from csr_core.layout import Layout
    from csr_core.params import settings_from

    if (judge_url is None) != (judge_model is None):
        raise SettingsError("a judge has an address and a name: give both --judge-url and --judge-model, or neither")
    told = {"url": judge_url, "model": judge_model} if judge_url else None
    judge = settings_from({"evaluate": {"judge": told}}).evaluate.judge
    figures, summary = score_answers(name, folder, answers, judge, Layout().state / "judgements.jsonl")
    print(json.dumps(figures, indent=2) if as_json else format_table(figures))
    if summary["unanswered"] and not as_json:
        print(f"{summary['unanswered']} of {summary['questions']} questions have no answer in the file")


def lmms_eval(
    iteration: Annotated[int, typer.Option(min=0, help="Whose model; 0: the base.")],
    tasks: Annotated[str, typer.Option(help="lmms-eval's tasks, with commas.")],
    python: Annotated[Path, typer.Option(help="The python of the environment that lmms-eval is installed in.")],
    model: Annotated[str, typer.Option(help="lmms-eval's name of the model's family.")] = "llava_hf",
    more: Annotated[
        list[str] | None, typer.Option("--more", help="Further arguments of it, such as --more=--limit=8.")
    ] = None,
    root: Root = Path(),
    params: ParamsOfRun = None,
    overrides: Overrides = None,
) -> None:
    """Run tasks of lmms-eval, in its own environment, on an iteration's model."""
    from csr_core.evaluation.lmms import run_lmms_eval
    from csr_core.layout import Layout
    from csr_core.params import load_settings
    from csr_core.records import read_json

    settings, chosen = (
        load_settings(settings_file(params, root), overrides or []),
        [task for task in tasks.split(",") if task],
    )
    results = run_lmms_eval(settings, Layout(root), iteration, chosen, python, model, more or [])
    for task, metrics in read_json(results)["tasks"].items():
        for name, entry in metrics.items():
            error = f" +- {entry['stderr']:.4g}" if "stderr" in entry else ""
            print(f"{task:<24} {name:<32} {entry['value']:.6g}{error}")
    print(f"wrote {results}")
