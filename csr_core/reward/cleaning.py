"""Which sentences the authors' code cleans or leaves out before it scores them (`reward.clean_text`)."""

from __future__ import annotations

import re
import unicodedata

MIN_CHARACTERS = 4

_REMOVED_ASCII = str.maketrans("", "", "-@\\`|~")
_SPOILED = (
    re.compile("[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]"),  # Hangul
    re.compile("[\u0400-\u052f]"),  # Cyrillic
    re.compile("[\u3040-\u30ff\u31f0-\u31ff]"),  # kana
    re.compile("(?:&nbsp;\\s*){2,}"),
    re.compile(r"\b(\w+)(?:\s+\1\b){5,}"),  # a word six times in a row
    re.compile(r"(\S)\1{10,}"),  # a character eleven times in a row
    re.compile(r"(?:\n[^\n]*){6,}"),  # more than five new lines
)


def clean_sentence(text: str) -> tuple[str, str | None]:
    """(the text to score, None), or (text, why its node and all below it are left out: `clean` or `short`).

    `clean`: a script or a repetition that the model falls into when it has gone astray. `short`: fewer than four
    characters are left. Removed are ``-@\\`|~`` and the symbols beyond ASCII (Unicode's categories S*).
    """
    if any(pattern.search(text) for pattern in _SPOILED):
        return text, "clean"
    kept = "".join(
        character
        for character in text.translate(_REMOVED_ASCII)
        if character.isascii() or not unicodedata.category(character).startswith("S")
    ).strip()
    return kept, "short" if len(kept) < MIN_CHARACTERS else None
