"""The pipeline, as the method reads: generate, score, pair, fine-tune, evaluate; then again from the new model.

Run it: `csr run`, or `prefect deployment run csr/iterate` with a server and a worker. You will see each stage once;
a second run finds every stage cached. Results: `metrics/iter_K.json`, `csr report`, and the MLflow page.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from tasks.evaluate import evaluate
from tasks.finetune import finetune
from tasks.generate import generate
from tasks.pair import pair
from tasks.prepare import prepare
from tasks.publish import publish
from tasks.run import Run
from tasks.score import score
from tasks.session import session


@flow(name="csr", flow_run_name="csr {params}", persist_result=False)
def csr(
    iterations: Annotated[int | None, Field(ge=1, description="How many; empty: the number in the settings")] = None,
    params: Annotated[str, Field(description="The settings file, in the run's folder")] = "params.yaml",
    overrides: Annotated[list[str] | None, Field(description="Changes to the settings, each section.key=value")] = None,
) -> None:
    """Calibrated Self-Rewarding: iterations of generate, score, pair, fine-tune and evaluate.

    Args:
        iterations: How many; empty takes the number in the settings file.
        params: The settings file, relative to the working folder.
        overrides: Changes to the settings, each `section.key=value`, such as `reward.image_weight=0.5`.
    """
    run = Run(Path(params), tuple(overrides or ()))
    with session(run):
        prepare(0, run)  # the held-out splits
        evaluate(0, run)  # the base model
        for k in range(1, (iterations or run.settings.iterations) + 1):
            prepare(k, run)
            generate(k, run)
            score(k, run)
            pair(k, run)
            finetune(k, run)
            evaluate(k, run)
            publish(k, run)
