"""The pipeline, as the method reads: generate, score, pair, fine-tune, evaluate; then again from the new model.

Run it: `csr run`, or `prefect deployment run csr/iterate` with a server and a worker. You will see each stage once;
a second run finds every stage cached. Results: `metrics/iter_K.json`, `csr report`, and the MLflow page.
"""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from tasks.evaluate import evaluate
from tasks.finetune import finetune
from tasks.generate import generate
from tasks.pair import pair
from tasks.prepare import prepare
from tasks.run import Run
from tasks.score import score
from tasks.tracking import tracked


@flow(name="csr", persist_result=False)
def csr(iterations: int | None = None, params: str = "params.yaml", overrides: list[str] | None = None) -> None:
    """Calibrated Self-Rewarding.

    Args:
        iterations: How many; empty takes the number in the settings file.
        params: The settings file, relative to the working folder.
        overrides: Changes to the settings, each `section.key=value`.
    """
    run = Run(Path(params), tuple(overrides or ()))
    with tracked(run) as track:
        prepare(0, run)  # held-out splits
        track.metrics(0, evaluate(0, run))  # the base model
        for k in range(1, (iterations or run.settings.iterations) + 1):
            prepare(k, run)
            generate(k, run)
            score(k, run)
            track.preferences(k, pair(k, run))
            track.training(k, finetune(k, run))
            track.metrics(k, evaluate(k, run))
