"""`--root` of the commands that read a finished run, and the settings file that goes with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Root = Annotated[Path, typer.Option(help="Folder of the run, as given to `csr run`.")]
Params = Annotated[
    Path | None, typer.Option(help="The settings file. Default: params.yaml of --root, else of this folder.")
]
HERE = Path("params.yaml")


def settings_file(params: Path | None, root: Path) -> Path:
    """The file that was named; else what the run left in its folder, where it did; else that of the working folder.

    Raises:
        SettingsError: none of them is there, and the working folder is one that `csr run --root` wrote to.
    """
    from csr_core.errors import SettingsError
    from csr_core.layout import Layout

    left = root / HERE
    found = params or (left if left.is_file() else HERE)
    if params is None and not found.is_file() and Layout().metrics(0).is_file():
        raise SettingsError(
            "there is a run in this folder, and no params.yaml: change into the folder where `csr run` was started, "
            "and name this one with --root"
        )
    return found
