"""The pipeline, as the method reads: generate, score, pair, fine-tune, evaluate; then again from the new model.

Run it: `csr run`, or `prefect deployment run csr/iterate` with a server and a worker. You will see each stage once;
a second run finds every stage cached. Results: `metrics/iter_K.json`, `csr report`, and the MLflow page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from prefect.runtime import flow_run
from pydantic import Field

from csr_core.checks import refuse_missing_gpus
from csr_core.layout import Layout
from flows.weak_reward import refuse_weak_reward
from tasks.evaluate import evaluate
from tasks.finetune import finetune
from tasks.generate import generate
from tasks.guard import ends_here, guard
from tasks.pair import pair
from tasks.prepare import prepare
from tasks.publish import publish
from tasks.run import Run
from tasks.score import score
from tasks.session import session
from tasks.stage import tell_times

Count = Annotated[int | None, Field(ge=1)]


def _run_name() -> str:
    root = flow_run.parameters["root"]
    return "iterate" if root == "." else f"iterate {root}"


@flow(name="csr", flow_run_name=_run_name, persist_result=False)
def csr(
    iterations: Count = None, params: str = "params.yaml", overrides: list[str] | None = None, root: str = "."
) -> None:
    """Calibrated Self-Rewarding: iterations of generate, score, pair, fine-tune, evaluate and guard.

    Args:
        iterations: How many; empty takes the number in the settings file.
        params: The settings file, relative to the working folder of the worker.
        overrides: Changes to the settings, each section.key=value, such as reward.image_weight=0.5
        root: Folder of all outputs, relative to the working folder.
    """
    run = Run(Path(params), tuple(overrides or ()), layout=Layout(Path(root)))
    imported = run.settings.pair.imported  # iterations whose pairs come from elsewhere
    refuse_missing_gpus(run.settings)
    refuse_weak_reward(run.params, run.overrides)
    with session(run, iterations):
        prepare(0, run)  # the held-out splits
        evaluate(0, run)  # the base model
        count = iterations or run.settings.iterations
        for k in range(1, count + 1):
            if k not in imported:
                prepare(k, run)
                generate(k, run)
                score(k, run)
            pair(k, run)
            finetune(k, run)
            evaluate(k, run)
            guard(k, run)
            publish(k, run)
            if ends_here(k, run):
                break
        tell_times(count, run)
