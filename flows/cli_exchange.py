"""`csr export` and `csr import`: what other programs read, and what they made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_root import Root

export_app = typer.Typer(help="Write what a run made in the forms of other programs.", no_args_is_help=True)
import_app = typer.Typer(help="Bring in what other programs made.", no_args_is_help=True)

Iteration = Annotated[int, typer.Option(min=1, help="1, 2, ...")]


@export_app.command("preferences")
def export_preferences(
    iteration: Iteration,
    form: Annotated[str, typer.Option("--format", help="authors, trl, llama-factory or ms-swift.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    copy_images: Annotated[bool, typer.Option(help="Put the pictures into it, so that it can be moved.")] = False,
    root: Root = Path(),
) -> None:
    """The preference pairs of an iteration."""
    from csr_core.layout import Layout
    from csr_core.preference.exchange import USE
    from csr_core.preference.exchange import export_preferences as export
    from csr_core.records import PREFERENCES, read_table

    found = export(read_table(Layout(root).preferences(iteration), PREFERENCES), form, out, copy_images)
    print(f"wrote {len(found.rows)} pairs to {out}; {USE[form].format(out=out)}")
    _tell_left_out(found.left_out)


@import_app.command("preferences")
def import_preferences(
    source: Annotated[str, typer.Argument(help="A set of the authors, LLaMA-Factory, ms-swift or TRL (docs/data.md).")],
    iteration: Iteration,
    images: Annotated[Path | None, typer.Option(help="Folder that its paths start from; default: the set's.")] = None,
    params: Annotated[Path, typer.Option(help="The settings file; pair.imported is set in it.")] = Path("params.yaml"),
    force: Annotated[bool, typer.Option(help="In place of pairs that the iteration has already.")] = False,
) -> None:
    """Pairs for an iteration to be fine-tuned on, in place of its own."""
    from csr_core.layout import Layout
    from csr_core.stages.imported import import_into

    found = import_into(source, images, iteration, params, Layout(), force)
    folder = Layout().imported(iteration)
    print(f"{found['pairs']} pairs are those of iteration {iteration} now (pair.imported in {params})")
    _tell_left_out(found["left_out"])
    print(f"next: csr run, or csr stage finetune --iteration {iteration}; `dvc add {folder}` keeps them with DVC")


def _tell_left_out(left_out: list[dict[str, str]]) -> None:
    if left_out:
        print(f"left out {len(left_out)}:")
    for item in left_out[:10]:
        print(f"  - {item['prompt_id']}: {item['reason']}")
    if len(left_out) > 10:
        print(f"  - ... and {len(left_out) - 10} more")
