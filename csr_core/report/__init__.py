"""What a run came to: a table, a sentence, drawings, and one HTML page that holds all of it."""

from csr_core.report.curves import plot_answers, plot_metrics
from csr_core.report.figures import COLUMNS, WATCHED, conclusion, figure, load_metrics, metrics_table, stop
from csr_core.report.page import write_report

__all__ = [
    "COLUMNS",
    "WATCHED",
    "conclusion",
    "figure",
    "load_metrics",
    "metrics_table",
    "plot_answers",
    "plot_metrics",
    "stop",
    "write_report",
]
