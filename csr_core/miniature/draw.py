"""Draws a scene: sprites over one of five painted backgrounds, 96 x 96 pixels RGB."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csr_core.miniature.world import IMAGE_SIZE, Scene

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from PIL.ImageDraw import ImageDraw

SPRITES = Path(__file__).parent / "sprites"
VARIANTS = 16  # of each background


@cache
def _sprite(name: str, size: int, flipped: bool) -> PilImage:
    """An object's picture, `size` x `size` pixels RGBA."""
    from PIL import Image, ImageOps

    file = SPRITES / f"{name.replace(' ', '_')}.png"
    with Image.open(file) as opened:
        sprite = opened.convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
    return ImageOps.mirror(sprite) if flipped else sprite


def _street(pen: ImageDraw, rng: np.random.Generator) -> None:
    pen.rectangle((0, 0, 96, 40), fill="#c9dcea")
    for x in range(-8, 96, 20):  # a row of houses
        top = int(rng.integers(6, 22))
        pen.rectangle((x, top, x + 18, 44), fill=("#b9a796", "#a9b0b8", "#c2b59b")[int(rng.integers(3))])
        for y in range(top + 4, 40, 9):
            pen.rectangle((x + 4, y, x + 7, y + 4), fill="#e8eef2")
            pen.rectangle((x + 11, y, x + 14, y + 4), fill="#e8eef2")
    pen.rectangle((0, 44, 96, 54), fill="#b8b8b4")
    pen.rectangle((0, 54, 96, 96), fill="#7d8086")
    for x in range(int(rng.integers(-12, 0)), 96, 22):
        pen.rectangle((x, 73, x + 11, 75), fill="#f2f0e4")


def _park(pen: ImageDraw, rng: np.random.Generator) -> None:
    pen.rectangle((0, 0, 96, 96), fill="#bfe3f7")
    pen.rectangle((0, 40, 96, 96), fill="#93c572")
    for x in range(int(rng.integers(-10, 8)), 100, int(rng.integers(26, 36))):  # trees
        pen.rectangle((x - 2, 34, x + 2, 50), fill="#8d6e52")
        pen.ellipse((x - 12, 12, x + 12, 40), fill="#6fa85a")
    shift = int(rng.integers(-14, 15))
    pen.polygon([(40 + shift, 46), (50 + shift, 46), (70 + shift, 96), (24 + shift, 96)], fill="#d9c8a3")


def _kitchen(pen: ImageDraw, rng: np.random.Generator) -> None:
    pen.rectangle((0, 0, 96, 96), fill="#f4ead6")
    shift = int(rng.integers(-8, 9))
    for x in range(-20 + shift, 110, 24):  # cupboards
        pen.rectangle((x, 0, x + 22, 22), fill="#c99f6b", outline="#a57f50")
    for x in range(0, 96, 8):
        pen.line((x, 24, x, 52), fill="#e3d5ba")
    for y in range(24, 53, 7):
        pen.line((0, y, 96, y), fill="#e3d5ba")
    pen.rectangle((0, 54, 96, 60), fill="#8f9aa3")
    for x in range(-14 + shift, 110, 30):
        pen.rectangle((x, 61, x + 28, 96), fill="#d7b181", outline="#a57f50")


def _beach(pen: ImageDraw, rng: np.random.Generator) -> None:
    pen.rectangle((0, 0, 96, 36), fill="#a8dcf5")
    pen.rectangle((0, 36, 96, 60), fill="#5fb4cf")
    pen.rectangle((0, 58, 96, 96), fill="#f1dfa9")
    x, y = int(rng.integers(4, 76)), int(rng.integers(2, 10))
    pen.ellipse((x, y, x + 14, y + 14), fill="#fbe27a")
    for _ in range(5):  # waves
        x, y = int(rng.integers(0, 84)), int(rng.integers(39, 57))
        pen.line((x, y, x + 11, y), fill="#c8e9f0")


def _bedroom(pen: ImageDraw, rng: np.random.Generator) -> None:
    pen.rectangle((0, 0, 96, 66), fill=("#d9cfe8", "#d3d6ea", "#e6d3df")[int(rng.integers(3))])
    pen.rectangle((0, 66, 96, 96), fill="#b58f6c")
    for y in range(72, 96, 8):
        pen.line((0, y, 96, y), fill="#a47f5d")
    x = int(rng.integers(8, 58))
    pen.rectangle((x, 8, x + 28, 36), fill="#cfe9f7", outline="#ffffff", width=2)  # a window
    pen.line((x + 14, 8, x + 14, 36), fill="#ffffff", width=2)
    pen.ellipse((14, 70, 82, 92), fill="#d98c8c")  # a rug


_PAINTERS = {"street": _street, "park": _park, "kitchen": _kitchen, "beach": _beach, "bedroom": _bedroom}


@cache
def _background(place: str, variant: int) -> PilImage:
    """A painted place; the variant moves its houses, trees, windows and waves."""
    from PIL import Image
    from PIL.ImageDraw import Draw

    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))
    _PAINTERS[place](Draw(image), np.random.default_rng([variant, sorted(_PAINTERS).index(place)]))
    return image


def draw(scene: Scene) -> PilImage:
    """The picture of a scene, 96 x 96 pixels RGB."""
    image = _background(scene.place, scene.backdrop % VARIANTS).copy()
    for placed in scene.objects:
        sprite = _sprite(placed.name, placed.size, placed.flipped)
        image.paste(sprite, (placed.x, placed.y), sprite)
    return image


def draw_array(scenes: list[Scene]) -> np.ndarray:
    """The pictures of some scenes as uint8 [scenes, 96, 96, 3]."""
    return np.stack([np.asarray(draw(scene)) for scene in scenes])
