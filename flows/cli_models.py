"""`csr export model`, `csr push`, `csr chat`: what an iteration made, for others and to look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_root import Params, Root, settings_file

if TYPE_CHECKING:
    from csr_core.chat import Told

Overrides = Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.key=value.")]
Iteration = Annotated[int, typer.Option(min=1, help="Whose model.")]
Merged = Annotated[bool, typer.Option("--merged", help="Base and adapter in one, with the processor.")]
Dtype = Annotated[str | None, typer.Option(help="Of merged weights: float32, bfloat16, float16. Default: the base's.")]


def export_model(
    iteration: Iteration,
    out: Annotated[Path, typer.Option(help="Folder to write; must be new or empty.")],
    merged: Merged = False,
    dtype: Dtype = None,
    root: Root = Path(),
    params: Params = None,
    overrides: Overrides = None,
) -> None:
    """Write the trained model with its card: a PEFT adapter, or with --merged the whole of it."""
    from csr_core.errors import SettingsError
    from csr_core.export import DTYPES, export_model
    from csr_core.layout import Layout
    from csr_core.params import load_settings

    if dtype is not None and dtype not in DTYPES:
        raise SettingsError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")
    _keep_to_the_point()
    settings = load_settings(settings_file(params, root), overrides or [])
    made = export_model(settings, Layout(root), iteration, out, merged, dtype)
    print(f"wrote {made.folder}")
    if made.kept is not None:
        lost = "; --dtype float32 keeps all of it" if made.kept < 0.9 else ""
        print(f"of what the adapter changed, {100 * made.kept:.0f} % is left after rounding{lost}")


def push(
    iteration: Iteration,
    to: Annotated[str, typer.Option(help="The model's name on the hub: OWNER/NAME.")],
    merged: Merged = False,
    dtype: Dtype = None,
    public: Annotated[bool, typer.Option("--public", help="For everybody to see; default: private.")] = False,
    root: Root = Path(),
    params: Params = None,
    overrides: Overrides = None,
) -> None:
    """Export the trained model and upload it to the Hugging Face hub."""
    import tempfile

    from csr_core.hub import push as upload

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model"
        export_model(iteration, out, merged, dtype, root, params, overrides)
        print(f"uploaded to {upload(out, to, private=not public)}")


def chat(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    prompt: Annotated[str, typer.Argument(help="What to ask.")] = "Describe the image.",
    iteration: Annotated[int, typer.Option(min=1, help="Whose model beside the base.")] = 1,
    root: Root = Path(),
    params: Params = None,
    overrides: Overrides = None,
) -> None:
    """The answers of the base and of an iteration side by side, with the reward of each sentence."""
    from csr_core.errors import InputError
    from csr_core.images import open_image
    from csr_core.layout import Layout
    from csr_core.params import load_settings

    settings, layout = load_settings(settings_file(params, root), overrides or []), Layout(root)
    if not image.is_file():
        raise InputError(f"there is no picture {image}: expected a file such as photo.jpg")
    picture = open_image(image, settings.data.max_pixels)
    if not layout.model(iteration).is_dir():
        raise InputError(
            f"{layout.model(iteration)} is not there: run iteration {iteration} first, or name another with "
            "--iteration, or the run's folder with --root"
        )
    # Only now what takes seconds to import.
    from rich.console import Console
    from rich.table import Table

    from csr_core.chat import tell
    from csr_core.policy import load_policy
    from csr_core.reward.scorer import SentenceScorer
    from csr_core.stages.plan import start_model

    _keep_to_the_point()
    scorer = SentenceScorer(settings.reward)
    table = Table(title=f"{image}: {prompt}", show_lines=True)
    sides = []
    for heading, adapter in (
        ("base", start_model(1, settings, layout)),
        (f"iteration {iteration}", layout.model(iteration)),
    ):
        table.add_column(heading, ratio=1)
        told = tell(load_policy(settings.model, adapter), scorer, settings, picture, prompt)
        sides.append([_with_reward(one) for one in told])
    for row in range(max(map(len, sides))):
        table.add_row(*(side[row] if row < len(side) else "" for side in sides))
    Console().print(table)


def _keep_to_the_point() -> None:
    """What one library says to another about its next release is no news for the user."""
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def _with_reward(one: Told) -> str:
    from rich.markup import escape

    said = "  (said before)" if one.repeated else ""
    parts = f"R {one.reward:.2f}  (picture {one.relevance:.2f}, likelihood {one.likelihood:.3g}){said}"
    return f"{escape(one.text)}\n[dim]{parts}[/dim]"
