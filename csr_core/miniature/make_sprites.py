"""Makes the sprites from the Noto Color Emoji font: `python -m csr_core.miniature.make_sprites FONT.ttf`.

The sprites are shipped, so nobody needs this unless the list of objects changes.
"""

from __future__ import annotations

import sys
from pathlib import Path

EMOJI = {
    "banana": "\U0001f34c", "bed": "\U0001f6cf\ufe0f", "bicycle": "\U0001f6b2", "bird": "\U0001f426", "boat": "\u26f5",
    "book": "\U0001f4d5", "bus": "\U0001f68c", "car": "\U0001f697", "cat": "\U0001f408", "chair": "\U0001fa91",
    "clock": "\u23f0", "cup": "\u2615", "dog": "\U0001f415", "fork": "\U0001f374", "kite": "\U0001fa81",
    "laptop": "\U0001f4bb", "pizza": "\U0001f355", "sports ball": "\u26bd", "teddy bear": "\U0001f9f8",
    "traffic light": "\U0001f6a6", "tv": "\U0001f4fa", "umbrella": "\u2602\ufe0f",
}  # fmt: skip
FONT_SIZE = 109  # the only size at which the font holds its colour bitmaps
SPRITE_SIZE = 64  # pixels


def make_sprites(font_file: Path, out: Path) -> None:
    """Writes `out/NAME.png`, 64 x 64 RGBA, one for each object."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.truetype(str(font_file), FONT_SIZE)
    for name, emoji in EMOJI.items():
        canvas = Image.new("RGBA", (200, 200))
        ImageDraw.Draw(canvas).text((20, 20), emoji[0], font=font, embedded_color=True)
        glyph = canvas.crop(canvas.getbbox())
        side = max(glyph.size)
        square = Image.new("RGBA", (side, side))
        square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
        sprite = square.resize((SPRITE_SIZE, SPRITE_SIZE), Image.Resampling.LANCZOS)
        sprite.save(out / f"{name.replace(' ', '_')}.png", optimize=True)


if __name__ == "__main__":
    make_sprites(Path(sys.argv[1]), Path(__file__).parent / "sprites")
