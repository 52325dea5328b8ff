"""Measure one checkpoint on the held-out splits of the settings.

Run it: `prefect deployment run csr/evaluate --param name=mine --param adapter=models/iter_3`. You will see its answers
and figures in `evaluations/mine/`, a table on Prefect's page, and a run of its own in MLflow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from csr_core.layout import Layout
from tasks.artifacts import show_metrics
from tasks.evaluate import evaluate
from tasks.prepare import prepare
from tasks.run import Run
from tasks.session import session


@flow(name="csr", flow_run_name="evaluate {name}", persist_result=False)
def evaluate_checkpoint(
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")],
    model: str | None = None,
    adapter: str | None = None,
    params: str = "params.yaml",
    overrides: list[str] | None = None,
) -> None:
    """Hallucination and ability of a checkpoint: CHAIR and POPE with intervals.

    Args:
        name: Letters, digits, dots and dashes; names the folder of the outputs, evaluations/NAME.
        model: The checkpoint's folder or hub name; empty takes that of the settings.
        adapter: A PEFT adapter on top of it, such as models/iter_3; empty takes that of the settings.
        params: The settings file, relative to the working folder of the worker.
        overrides: Changes to the settings, each section.key=value
    """
    chosen = [f"model.path={model}"] if model else []
    chosen += [f"model.adapter={adapter}"] if adapter else []
    run = Run(Path(params), (*(overrides or ()), *chosen), layout=Layout(Path("evaluations") / name))
    with session(run):
        prepare(0, run)
        evaluate(0, run)
        show_metrics(0, run.layout, key=f"csr-metrics-{name}")
