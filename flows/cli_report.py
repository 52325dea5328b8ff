"""`csr report`: the table, the sentence and the page of a run; also what `csr run` ends with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from csr_core.config import TrackingSettings

TREES = 60  # as csr_core.report.trees has it, which takes longer to import


def report(
    runs: Annotated[list[Path] | None, typer.Argument(help="A run's folder, and others to compare it with.")] = None,
    out: Annotated[Path | None, typer.Option(help="The HTML file. Default: reports/report.html of the run.")] = None,
    trees: Annotated[int, typer.Option(min=1, help="At most so many sentence trees of an iteration.")] = TREES,
    iterations: Annotated[int | None, typer.Option(min=1, help="Default: all that are there.")] = None,
) -> None:
    """Print the metrics by iteration, and write one HTML page with the whole story and the sentence trees."""
    show_report(runs or [Path()], out, iterations, trees)


def show_report(runs: list[Path], out: Path | None, iterations: int | None, trees: int = TREES) -> None:
    """Print the table of the first of `runs`, and write its page, in which the others stand beside it."""
    from csr_core.layout import Layout
    from csr_core.report import metrics_table, write_report

    layout = Layout(runs[0])
    out = out or layout.report
    print(metrics_table(layout, iterations))
    write_report(layout, out, iterations, {_name(run): Layout(run) for run in runs[1:]}, trees)
    print(f"\nOpen {out} in a browser: figures, guards, sentence trees, answers before and after.")


def _name(run: Path) -> str:
    return run.resolve().name if run == Path() else str(run)


def where_else_to_look(tracking: TrackingSettings) -> str:
    """How to see the run in MLflow."""
    from tasks.store import SERVER_OF_ENVIRONMENT, without_password

    address = tracking.mlflow_uri or SERVER_OF_ENVIRONMENT
    if address:
        return f"MLflow has it at {without_password(address)}."
    return "Compare runs and iterations: mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db"
