"""`csr table`, `csr seeds`: what a paper would print of one run, and of several that differ in their seed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_root import Params, Root, settings_file

Overrides = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")]
Out = Annotated[Path | None, typer.Option(help="The file to write; default: print.")]


def table(
    form: Annotated[str, typer.Option("--format", help="markdown, latex or json.")] = "markdown",
    out: Out = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Only so many; default: all.")] = None,
    gain: Annotated[
        list[str] | None, typer.Option(help="SPLIT/FIGURE that counts for the relative gain; default: all claims.")
    ] = None,
    root: Root = Path(),
    params: Params = None,
    overrides: Overrides = None,
) -> None:
    """Base and iterations: every figure, interval, difference, corrected p, smallest detectable difference."""
    from csr_core.layout import Layout
    from csr_core.params import load_settings
    from csr_core.tables import render, results

    settings = load_settings(settings_file(params, root), overrides or []).evaluate
    render({"rows": [], "gain": [], "gaps": [], "notes": []}, form)  # a wrong format is told before the work
    _put(render(results(Layout(root), settings.twins, gain, iterations, settings.bootstrap), form), out)


def seeds(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, or of answers, that differ in their seed.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of Markdown.")] = False,
    out: Out = None,
) -> None:
    """Several runs: mean over the seeds, spread, and an interval over seeds and images."""
    import json

    from csr_core.evaluation.seeds import seeds_report
    from csr_core.tables import seeds_markdown

    report = seeds_report(runs)
    _put(json.dumps(report, indent=2) + "\n" if as_json else seeds_markdown(report), out)


def _put(text: str, out: Path | None) -> None:
    if out is None:
        print(text, end="")
        return
    from csr_core.tables import write

    write(text, out)
    print(f"wrote {out}")
