"""What Prefect's page shows of a run: progress of each stage, the metrics, the clearest pairs, links."""

from __future__ import annotations

import base64
import contextlib
import io
import queue
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import UUID

from csr_core.images import open_image
from csr_core.layout import Layout
from csr_core.progress import forget, read_all
from csr_core.progress_line import Display, State, clock, merged
from csr_core.records import PREFERENCES, read_table
from csr_core.report import COLUMNS, conclusion, figure, load_metrics, plot_metrics
from csr_core.stages.plan import StageCall
from csr_core.stages.runner import CHECKING

UPDATE_SECONDS = 2.0


class StageProgress:
    """How far a stage is, as one line here and as a progress artifact, `generate-1`.

    The stage's processes count into files, which this reads. Prefect's page has the line as the description.
    """

    def __init__(self, call: StageCall, layout: Layout) -> None:
        self._call, self._folder = call, layout.progress(call.label)
        self._artifact: UUID | None = None
        self._told = 0.0
        self._here = State()  # what this process does itself
        self.made = False  # rather than found up to date
        self.display = Display(call.title, lambda: merged([self._here, *read_all(self._folder)]))

    @staticmethod
    def file(layout: Layout, label: str, shard: int | None = None) -> Path:
        """Where the process of a stage or shard counts."""
        return (layout.progress(label) / f"{'stage' if shard is None else f'shard-{shard:05d}'}.json").resolve()

    @contextlib.contextmanager
    def checking(self) -> Iterator[None]:
        """While it is found out whether there is something to do."""
        self._here.doing = CHECKING
        yield
        self._here.doing = ""

    def wait(self, futures: Sequence[Any]) -> list[Any]:
        """The results of `futures`, in their order; their first error is raised when all have ended."""
        ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for future in futures:
            # To ask a future for its state would be a question to the server each time.
            future.add_done_callback(ended.put)
        waiting = len(futures)
        while waiting:
            with contextlib.suppress(queue.Empty):
                ended.get(timeout=UPDATE_SECONDS)
                waiting -= 1
            self._update()
        return [future.result() for future in futures]

    def __enter__(self) -> StageProgress:
        from prefect.artifacts import create_progress_artifact

        forget(self._folder)
        made = create_progress_artifact(progress=0.0, key=artifact_key(self._call.label), description=self._call.title)
        self._artifact = made if isinstance(made, UUID) else None
        self.display.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.display.__exit__(kind, error, trace)
        if kind is None:
            told = (self.display.told() or "done") if self.made else "up to date"
            self._show(100.0, f"{self._call.title}: {told}")
        forget(self._folder)

    def _update(self) -> None:
        if time.monotonic() - self._told < UPDATE_SECONDS:
            return
        self._told = time.monotonic()
        state = self.display.state()
        self._show(min(99.0, 100.0 * state.done / max(state.total, 1)), self.display.line(state))

    def _show(self, percent: float, text: str) -> None:
        from prefect.artifacts import update_progress_artifact

        if self._artifact is not None:
            update_progress_artifact(self._artifact, progress=percent, description=text)


def show_table(markdown: str, key: str, description: str) -> None:
    """A table, or other Markdown, on Prefect's page."""
    from prefect.artifacts import create_markdown_artifact

    create_markdown_artifact(markdown, key=artifact_key(key), description=description)


def show_metrics(iteration: int, layout: Layout, key: str = "csr-metrics") -> None:
    """What changed so far in words, with the curves and a table of the benchmark figures by iteration."""
    runs = load_metrics(layout, iteration)
    lines = []
    for split in runs[0]:
        told = conclusion(runs, split)
        curves = base64.b64encode(plot_metrics({"this run": runs}, split)).decode()
        lines += ["", f"**{split}**: {told}" if told else f"**{split}**", ""]
        lines += [f"![curves of the main figures of {split}](data:image/png;base64,{curves})"]
        names = [name for name in COLUMNS if name in runs[0][split]]
        lines += ["", "95 % intervals over pictures:", ""]
        lines += ["| | " + " | ".join(COLUMNS[name][0] for name in names) + " |", "|---" * (len(names) + 1) + "|"]
        for k, metrics in enumerate(runs):
            cells = " | ".join(figure(metrics[split][name], name) if name in metrics[split] else "-" for name in names)
            lines.append(f"| {'base' if k == 0 else f'iteration {k}'} | {cells} |")
    lines += [
        "",
        f"The whole story, with the sentence trees: `{layout.report}`, also among the artifacts of the MLflow run.",
    ]
    show_table("\n".join(lines), key, f"Benchmark figures up to iteration {iteration}")


def show_costs(costs: Sequence[dict[str, Any]], key: str = "csr-costs") -> None:
    """A table of what each stage took; see `csr_core.stages.costs.stage_costs`."""
    lines = ["| stage | time | items | MiB | MiB on a GPU | |", "|---|---|---|---|---|---|"]
    for row in costs:
        cells = [
            f"{row['stage']}@{row['iteration']}",
            "" if row["seconds"] is None else clock(row["seconds"]),
            "" if row["items"] is None else f"{row['items']:,} {row['unit']}",
            *("" if row[name] is None else f"{row[name]:,.0f}" for name in ("peak_mib", "gpu_mib")),
            "up to date" if row["cached"] else "went on from an earlier run" if row["resumed"] else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    show_table("\n".join(lines), key, "What each stage took when it was made; memory is that of its largest process")


NUMBERS = ("margin", "chosen_reward", "rejected_reward")


def show_pairs(iteration: int, layout: Layout, count: int = 5) -> None:
    """The pairs with the largest margins, with their pictures, `csr-pairs-K`."""
    rows = read_table(layout.preferences(iteration), PREFERENCES)
    lines = []
    for row in sorted(rows, key=lambda row: -(row["margin"] or 0.0))[:count]:
        told = {name: "imported" if value is None else f"{value:.2f}" for name, value in row.items() if name in NUMBERS}
        lines += [
            f"#### {row['prompt_id']}: margin {told['margin']}",
            f"![{row['prompt_id']}]({_thumbnail(Path(row['images'][0]))})",
            "",
            f"*{row['prompt'][0]['content'].strip()}*",
            "",
            f"**chosen** ({told['chosen_reward']}): {row['chosen'][0]['content'].strip()}",
            "",
            f"**rejected** ({told['rejected_reward']}): {row['rejected'][0]['content'].strip()}",
            "",
        ]
    show_table("\n".join(lines), f"csr-pairs-{iteration}", f"Clearest pairs of iteration {iteration}")


def link_records(iteration: int, mlflow_url: str | None, revision: str | None) -> None:
    """Where the iteration is recorded: the MLflow run, and the DVC revision of its preferences, `csr-records-K`."""
    from prefect.artifacts import create_link_artifact

    if mlflow_url is not None:
        create_link_artifact(mlflow_url, link_text="MLflow run", key=artifact_key(f"csr-mlflow-{iteration}"))
    text = (
        f"MLflow run: {mlflow_url or 'in the store under mlruns/ (`csr up`, or `mlflow ui`)'}\n\n"
        f"DVC revision of the preferences: {revision or 'not recorded'}"
    )
    show_table(text, f"csr-records-{iteration}", "Where the iteration is recorded")


def _thumbnail(image: Path, side: int = 192) -> str:
    """The picture as a data address, small enough for a page of text."""
    picture = open_image(str(image), max_pixels=2**31)
    picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def artifact_key(text: str) -> str:
    """Prefect allows lower case letters, digits and dashes."""
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower())
