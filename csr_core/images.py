"""Open pictures that come from anywhere: unreadable, truncated, huge and non-RGB ones are found here, not on a GPU."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from csr_core.errors import InputError


@dataclass(frozen=True)
class Embedded:
    """A picture inside another file. `name` tells it from others, in messages and in caches."""

    name: str
    content: bytes = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.name


def open_image(path: Path | str | Embedded, max_pixels: int = 50_000_000) -> Image.Image:
    """The picture at `path`, upright, as RGB (transparency on white).

    Raises:
        InputError: missing, not a picture, truncated, or more than `max_pixels` (a decompression bomb is refused
            from its header, before its pixels are unpacked).
    """
    source = io.BytesIO(path.content) if isinstance(path, Embedded) else Path(path)
    try:
        with warnings.catch_warnings():
            # The limit is checked below on the header; Pillow's own warning at half its limit would only be noise.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as opened:
                width, height = opened.size
                if width * height > max_pixels:
                    raise InputError(
                        f"{path} has {width} x {height} pixels, more than data.max_pixels = {max_pixels}: "
                        "shrink the picture, or raise the limit if it is meant to be that large"
                    )
                opened.load()
                return _rgb(ImageOps.exif_transpose(opened))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: check data.images, or remove its prompt") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large to be a picture of this data set ({error}): shrink it") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture that can be read: is it damaged, or of another type?") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path} cannot be read to its end ({error}): fetch it again") from error


COCO = re.compile(r"(?:^|/)(?:COCO_(?:train|val)2014_)?(\d{12}\.jpg)$")
COCO_PLACES = (
    *("", "COCO_train2014_", "COCO_val2014_"),
    *("train2014/COCO_train2014_", "val2014/COCO_val2014_", "train2017/", "val2017/"),
)


def find_image(folder: Path, name: str) -> Path:
    """The picture `name` below `folder`; one of COCO's also under the other names it has there.

    COCO 2014 calls a picture train2014/COCO_train2014_000000000009.jpg, COCO 2017 train2017/000000000009.jpg, and files
    about them use either, with any folder before it; a number stands for one picture in all of COCO. Where nothing is
    found: `folder / name`.
    """
    named = folder / name
    coco = COCO.search(name)
    if coco is None or named.exists():
        return named
    places = (folder / f"{place}{coco[1]}" for place in COCO_PLACES)
    return next((place for place in places if place.exists()), named)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")
