"""Find the COCO objects that a text mentions, by the word list of the CHAIR benchmark (`coco_synonyms.json`).

Two readings of the words:

- *corrected*: every word of the list is found, in singular and plural.
- *published*: as the program behind the published figures reads them. It misses "bus" and "ties", among others, since
  its library's singular forms of these are "bu" and "ty" (`published_misses` in the data file). On its 2000 captions of
  LLaVA this lowers the recall by 0.8 points, so published figures can only be compared in this reading.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import Any

# Words with inner hyphens and apostrophes; any other sign is a token too, so that no phrase reaches across it.
_TOKEN = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*|\S")
_POSSESSIVE = re.compile(r"['’]s$")
_LONGEST = 3  # words in a phrase
_IRREGULAR_ENDS = ("men", "mice", "geese")  # of plurals that do not begin as their singular


@cache
def word_list() -> dict[str, Any]:
    """The data file: `categories`, `read_as`, `qualifiers`, `no_object`, `irregular`, `published_misses`."""
    text = resources.files("csr_core.evaluation").joinpath("coco_synonyms.json").read_text("utf-8")
    return dict(json.loads(text))


def coco_categories() -> tuple[str, ...]:
    """COCO's 80 category names."""
    return tuple(word_list()["categories"])


@cache
def category_of(word: str) -> str | None:
    """The category that a word or phrase (singular, lower case) stands for; None if it is not in the list."""
    for category, synonyms in word_list()["categories"].items():
        if word == category or word in synonyms:
            return str(category)
    return None


def _phrases() -> dict[tuple[str, ...], tuple[str, str | None]]:
    """Words of each phrase -> (the phrase it is read as, its category or None)."""
    data = word_list()
    read_as = {word: word for category, synonyms in data["categories"].items() for word in (category, *synonyms)}
    read_as |= {phrase: phrase for phrase in data["no_object"]}
    read_as |= {f"{first} {second}": second for first, seconds in data["qualifiers"].items() for second in seconds}
    read_as |= data["read_as"]
    return {tuple(phrase.split()): (word, category_of(word)) for phrase, word in read_as.items()}


@cache
def _inflector() -> Any:
    import inflect  # takes seconds to load: texts without plurals, such as the miniature's, do without

    return inflect.engine()


class ObjectParser:
    """Maps texts to the COCO categories they mention, one entry a mention."""

    def __init__(self, published: bool = False) -> None:
        self.published = published
        self._phrases = _phrases()
        misses = word_list()["published_misses"] if published else []
        # A single word is missed in this very form alone ("bus" is, "buses" is not); a phrase in singular and plural.
        self._lost = {word for word in misses if " " not in word}
        self._phrases |= {tuple(word.split()): (word, None) for word in set(misses) - self._lost}
        self._known = {word for phrase in self._phrases for word in phrase}
        # What a regular plural begins with: "cars", "pupp|ies", "cal|ves", "kni|ves".
        self._stems = {re.sub("(y|f|fe)$", "", word) for word in self._known}
        self._irregular = dict(word_list()["irregular"])  # what the library gets wrong
        self._singulars: dict[str, str] = {}

    def singular(self, word: str) -> str:
        """The singular of `word` where that is a word of the list, otherwise `word` itself.

        The library also "finds" singulars of words that are none ("bus" -> "bu"): its answer counts only where it
        leads from a word that is not in the list to one that is.
        """
        if word not in self._singulars:
            made: str | bool = self._irregular.get(word, False)
            if not made and self._may_be_plural(word):
                made = _inflector().singular_noun(word)
            self._singulars[word] = made if isinstance(made, str) and made in self._known else word
        return self._singulars[word]

    def _may_be_plural(self, word: str) -> bool:
        """Whether asking the library is worth its time: it takes seconds to load, and 0.6 ms a word."""
        if word in self._known:
            return False
        begins = word.endswith("s") and any(word[:length] in self._stems for length in range(2, len(word)))
        return begins or word.endswith(_IRREGULAR_ENDS)

    def mentions(self, text: str) -> list[str]:
        """The category of each mention in `text`, in order; longer phrases go before shorter ones."""
        return [category for _, _, category in self.spans(text)]

    def spans(self, text: str) -> list[tuple[int, int, str]]:
        """Each mention as (start, end, category): `text[start:end]` is what names it."""
        tokens = list(_TOKEN.finditer(text))
        written = [_POSSESSIVE.sub("", token[0].lower()) for token in tokens]
        words = ["" if token in self._lost else self.singular(token) for token in written]
        found: list[tuple[int, int, str, str | None]] = []
        at = 0
        while at < len(words):
            for length in range(min(_LONGEST, len(words) - at), 0, -1):
                hit = self._phrases.get(tuple(words[at : at + length]))
                if hit is not None:
                    found.append((tokens[at].start(), tokens[at + length - 1].end(), *hit))
                    break
            at += length
        # "the seat of the toilet" is no chair
        if any(word == "toilet" for _, _, word, _ in found):
            found = [hit for hit in found if hit[2] != "seat"]
        return [(start, end, category) for start, end, _, category in found if category is not None]


@cache
def object_parser(published: bool = False) -> ObjectParser:
    """The parser, one for each reading: its memory of singulars is worth keeping."""
    return ObjectParser(published)


def reads_as_published(categories: Iterable[str]) -> bool:
    """Which reading belongs to a ground truth: the published one for COCO's own 80 categories, on which the published
    figures were measured; the corrected one for any other choice of categories, where there is nothing to compare with.
    """
    return set(categories) == set(coco_categories())
