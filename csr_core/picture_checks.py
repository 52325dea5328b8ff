"""What `csr check` says of prompts and their pictures, each of which is opened."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from csr_core.config import DataSettings
from csr_core.errors import CsrError
from csr_core.finding import Finding
from csr_core.images import find_image, open_image
from csr_core.left_out import reasons
from csr_core.progress import Progress
from csr_core.prompt_sources import is_hub_name
from csr_core.prompts import MINIATURE, prompts_of
from csr_core.records import pictures_of

LOOKED_FOR = 20  # missing pictures, and folders to look for them in


def pictures(data: DataSettings) -> Iterator[Finding]:
    """How many prompts can be used, then why others cannot."""
    if data.prompts == MINIATURE:
        yield Finding(True, "prompts", f"{data.per_iteration or 300} scenes an iteration, drawn when needed")
        return
    missing: list[Path] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = prompts_of(data, Path(folder))
            with Progress("pictures", len(found.rows), "pictures") as bar:
                for row in found.rows:
                    try:
                        missing += [Path(image) for image in pictures_of(row) if not Path(image).exists()]
                        for image in pictures_of(row):
                            open_image(image, data.max_pixels)
                    except CsrError as error:
                        found.drop(row["prompt_id"], str(error))
                    bar.advance()
    except CsrError as error:
        yield Finding(False, "prompts", str(error))
        return
    unreadable = {item["prompt_id"] for item in found.left_out} & {row["prompt_id"] for row in found.rows}
    usable = len(found.rows) - len(unreadable)
    place = elsewhere(data, missing) if 2 * len(missing) > len(found.rows) else None
    hint = f"; the pictures are elsewhere, so set data.images: {place}" if place else ""
    yield Finding(usable > 0, "prompts", f"{usable} usable, {len(found.left_out)} left out{hint}")
    yield from (Finding(True, "left out", reason, note=True) for reason in reasons(found.left_out))


def elsewhere(data: DataSettings, missing: Sequence[Path]) -> Path | None:
    """A folder near the prompts or near `data.images` below which most of the first `missing` pictures are."""
    if is_hub_name(data.prompts):
        return None
    home = Path(data.prompts) if Path(data.prompts).is_dir() else Path(data.prompts).parent
    given = Path(data.images) if data.images else home
    names = [str(path.relative_to(given)) for path in missing[:LOOKED_FOR] if path.is_relative_to(given)]
    below = [child for folder in (home, given) for child in sorted(folder.iterdir()) if child.is_dir()]
    for place in (home, given.parent, *below[:LOOKED_FOR]):
        if 2 * sum(find_image(place, name).exists() for name in names) > len(names):
            return place
    return None
