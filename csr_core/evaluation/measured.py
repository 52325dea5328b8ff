"""Whether the figures of a run are of the user's own pictures."""

from __future__ import annotations

from collections.abc import Iterable

from csr_core.prompts import MINIATURE


def measured_elsewhere(prompts: str, folders: Iterable[str]) -> str:
    """A sentence where a model taught on own pictures is measured on drawn ones alone; else nothing.

    prompts: `data.prompts`. folders: the `folder` of each of `evaluate.splits`.
    """
    named = list(folders)
    if prompts == MINIATURE or not named or not all(folder.startswith(f"{MINIATURE}:") for folder in named):
        return ""
    return (
        f"the figures are of drawn pictures (evaluate.splits: {', '.join(named)}), not of yours: "
        "name a folder of your own under evaluate.splits (docs/your-model.md)"
    )
