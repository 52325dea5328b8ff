"""`csr report`: the table, the sentence and the page of a run; also what `csr run` ends with."""

from __future__ import annotations

import shutil
import sys
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
    from csr_core.report import load_metrics, metrics_table, write_report
    from csr_core.report.story import mixed

    layout = Layout(runs[0])
    out = out or layout.report
    others = {_name(run): Layout(run) for run in runs[1:]}
    for other in others.values():
        load_metrics(other)  # a wrong folder is told before anything else
    print(metrics_table(layout, iterations))
    if told := mixed(layout, len(load_metrics(layout, iterations)) - 1):
        print(told, file=sys.stderr)
    for name, other in others.items():
        print(f"\n{name}:\n{metrics_table(other)}")
    write_report(layout, out, iterations, others, trees)
    print(f"\nOpen {out} in a browser: figures, guards, sentence trees, answers before and after.")


def _name(run: Path) -> str:
    return run.resolve().name if run == Path() else str(run)


def where_else_to_look(tracking: TrackingSettings, root: Path = Path()) -> str:
    """How to see the run beside others, and in MLflow."""
    from csr_core.addresses import without_password
    from tasks.store import SERVER_OF_ENVIRONMENT

    lines = [] if root == Path() else [f"Beside the run in this folder: csr report . {root}"]
    if address := tracking.mlflow_uri or SERVER_OF_ENVIRONMENT:
        return "\n".join([*lines, f"MLflow has it at {without_password(address)}."])
    mlflow = "mlflow" if shutil.which("mlflow") else str(Path(sys.executable).with_name("mlflow"))
    store = "ui --backend-store-uri sqlite:///mlruns/mlflow.db"
    return "\n".join([*lines, f"Compare runs and iterations: {mlflow} {store}"])
