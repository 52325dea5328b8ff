"""After an iteration: what it brought, as artifacts on Prefect's page, and its dataset to DVC's remote."""

from __future__ import annotations

from tasks.artifacts import link_records, show_metrics, show_pairs
from tasks.run import Run
from tasks.session import current


def publish(iteration: int, run: Run) -> None:
    """Show metrics, clearest pairs and links to the records, and push the dataset where there is a remote."""
    show_metrics(iteration, run.layout)
    show_pairs(iteration, run.layout)
    now = current()
    if now is not None:
        link_records(iteration, now.track.url(), now.versions.recorded("pair", iteration))
        now.versions.push(iteration)
