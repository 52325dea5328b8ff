"""The settings of a run whose outputs lie in a folder of their own, left there for the commands that read it."""

from __future__ import annotations

import sys
from pathlib import Path

from csr_core.addresses import without_password
from csr_core.config import Settings
from csr_core.errors import SettingsError
from csr_core.params import load_settings, render_params, values_of
from csr_core.records import write_text

HEADER = "# The settings of the run in this folder, written by `csr run`. Paths start from where it was started.\n"


def keep_settings(settings: Settings, root: Path, working_folder: Path) -> None:
    """Write `root/params.yaml`, whole or not at all, so that the run can be read without its command line.

    Not where `root` is the working folder, whose file is the user's, nor over a file that was not left by a run.
    MLflow's address loses its password. Stages never read the file: it decides nothing about what is up to date.
    """
    file = root / "params.yaml"
    if root.resolve() == working_folder.resolve():
        return
    if file.is_file():
        if _says(file, settings):
            return
        if not file.read_text("utf-8").startswith(HEADER):
            told = f"{file} is not of this run, and stays: `csr chat`, `csr table` and `csr export` with --root read it"
            print(told, file=sys.stderr, flush=True)
            return
    root.mkdir(parents=True, exist_ok=True)
    write_text(file, HEADER + render_params(values_of(_without_password(settings))))


def _says(file: Path, settings: Settings) -> bool:
    try:
        return load_settings(file) == settings
    except SettingsError:
        return False


def _without_password(settings: Settings) -> Settings:
    tracking = settings.tracking
    if not tracking.mlflow_uri:
        return settings
    bare = tracking.model_copy(update={"mlflow_uri": without_password(tracking.mlflow_uri)})
    return settings.model_copy(update={"tracking": bare})
