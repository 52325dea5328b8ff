"""After an iteration: what it brought, as a page and as artifacts; its dataset to DVC's remote."""

from __future__ import annotations

import logging
from pathlib import Path

from csr_core.layout import Layout
from csr_core.report import write_report
from tasks.artifacts import link_records, show_metrics, show_pairs
from tasks.run import Run
from tasks.session import current


def publish(iteration: int, run: Run) -> None:
    """Write the report, show metrics, clearest pairs and links, and push the dataset where there is a remote."""
    page = _page(iteration, run.layout)
    show_metrics(iteration, run.layout)
    show_pairs(iteration, run.layout)
    now = current()
    if now is not None:
        if page is not None:
            now.track.keep_page(page)
        link_records(iteration, now.track.url(), now.versions.recorded("pair", iteration))
        now.versions.push(iteration)


def _page(iteration: int, layout: Layout) -> Path | None:
    """The report up to `iteration`, written unless it is newer than the figures; None where that failed."""
    page = layout.report
    seen = [layout.metrics(iteration), layout.guards(iteration)]
    if page.is_file() and all(page.stat().st_mtime > file.stat().st_mtime for file in seen if file.is_file()):
        return page
    try:
        write_report(layout, page, iteration)
    except Exception:
        # Hours of work must not end over a page that some text or picture of the data breaks.
        logging.getLogger(__name__).warning("%s could not be written", page, exc_info=True)
        return None
    return page
