"""Which few of many a page shows: spread evenly, so that the good, the bad and the usual are there in proportion."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image

from csr_core.errors import InputError
from csr_core.images import open_image
from csr_core.layout import Layout

T = TypeVar("T")

SIDE = 320  # pixels of a picture's longer side on the page
SMALL = 8_000  # bytes: a picture that takes no more without loss, as a drawing does, is kept so


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` items at equal distances, first and last among them; all where there are no more."""
    if len(items) <= count:
        return list(items)
    if count < 2:
        return list(items[:count])
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def spread_order(items: Sequence[T]) -> list[T]:
    """All items, in an order of which any beginning is spread over the whole: first, last, middle, quarters, ...

    The places are those of van der Corput's sequence, which halves the largest gap again and again.
    """
    if len(items) < 3:
        return list(items)
    places = dict.fromkeys((0, len(items) - 1))
    step = 1
    while len(places) < len(items):
        step *= 2
        places |= dict.fromkeys(round(odd * (len(items) - 1) / step) for odd in range(1, step, 2))
    return [items[place] for place in places]


def data_uri(path: Path, max_pixels: int) -> str | None:
    """The picture, small and without what a camera wrote beside it, as a `data:` address; None where it is gone."""
    try:
        picture = open_image(path, max_pixels)
    except InputError:
        return None
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True, quality=30, method=1)
    if buffer.tell() > SMALL:
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=72)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def find_path(path: str | Path, layout: Layout) -> Path:
    """Where a path that a run's files name lies: they are relative to the folder in which it ran, or to its own."""
    return Path(path) if Path(path).exists() or not (layout.root / path).exists() else layout.root / path
