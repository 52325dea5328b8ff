"""Open pictures that come from anywhere: unreadable, truncated, huge and non-RGB ones are found here, not on a GPU."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from csr_core.errors import InputError


def open_image(path: Path | str, max_pixels: int = 50_000_000) -> Image.Image:
    """The picture at `path`, upright, as RGB (transparency on white).

    Raises:
        InputError: missing, not a picture, truncated, or more than `max_pixels` (a decompression bomb is refused
            from its header, before its pixels are unpacked).
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            # The limit is checked below on the header; Pillow's own warning at half its limit would only be noise.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
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


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")
