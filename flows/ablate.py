"""How much of the reward should come from the picture? Whole runs of several weights and seeds.

Run it: `prefect deployment run csr/ablate --param 'image_weights=[0, 0.9, 1]' --param seeds=3`. You will see a run of
`csr` for each in MLflow, their files in `ablation/weight-W/seed_S/`, and one table on Prefect's page. A run that was
stopped goes on where it was. Other parts of the method: `csr ablate`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from csr_core.ablation import ablation_table
from csr_core.layout import Layout
from csr_core.report import load_metrics
from flows.iterate import Count, csr
from tasks.artifacts import show_table


@flow(name="csr", flow_run_name="ablate", persist_result=False)
def ablate(
    image_weights: list[float] = [0.0, 0.9, 1.0],  # noqa: B006, the page's form shows it
    seeds: Annotated[int, Field(ge=1)] = 3,
    iterations: Count = None,
    params: str = "params.yaml",
    overrides: list[str] | None = None,
) -> None:
    """Runs of csr for each weight of the picture and each seed, and a table of their metrics.

    Args:
        image_weights: Weights of the picture in the reward, each from 0 (likelihood alone) to 1 (picture alone).
        seeds: Whole runs of each weight.
        iterations: Of each run; empty takes the number in the settings file.
        params: The settings file, relative to the working folder of the worker.
        overrides: Further changes to the settings, each section.key=value
    """
    results: dict[str, list[list[dict[str, object]]]] = {}
    for weight in image_weights:
        for seed in range(seeds):
            root = Path("ablation") / f"weight-{weight:g}" / f"seed_{seed}"
            changes = [*(overrides or ()), f"reward.image_weight={weight}", f"seed={seed}"]
            csr(iterations, params, changes, str(root))
            results.setdefault(f"weight {weight:g}", []).append(load_metrics(Layout(root), iterations))
    show_table(ablation_table(results), key="csr-ablation", description="Metrics by weight of the picture")
