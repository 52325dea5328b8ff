"""Where a sentence ends, told while it is being written, token by token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Bool
from torch import Tensor

from csr_core.errors import InputError

STOPS, WIDE_STOPS = ".!?…", "。！？"
CLOSERS = "\"'”’»)]}*_」』）】"
_ENDING = re.compile(rf"(?P<stops>[{re.escape(STOPS + WIDE_STOPS)}]+)(?P<closers>[{re.escape(CLOSERS)}]*)$")
_CANDIDATE = re.compile(rf"[{re.escape(STOPS + WIDE_STOPS)}]+[{re.escape(CLOSERS)}]*|\n+")
_NEXT_WORD = re.compile(r"\s*\S+")
_LIST_NUMBER = re.compile(r"(?:^|\n)\s*\(?(?:\d{1,3}|[A-Za-z])[.)]$")  # "1." at the start of a line
_INITIAL = re.compile(r"(?:^|[\s(\[.])[A-Z]\.$")  # "J. Smith", "U.S."
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]+$")

# Written with a full stop and hardly ever at a sentence's end; compared in lower case.
_ABBREVIATIONS = """
    mr. mrs. ms. mx. dr. prof. st. sr. jr. rev. hon. gen. col. capt. lt. sgt. gov. sen. rep. mt. ft.
    e.g. i.e. etc. vs. cf. al. approx. ca. fig. figs. eq. nos. vol. pp. ed. eds. dept. inc. ltd. corp. est.
    ave. blvd. rd. jan. feb. apr. jun. jul. aug. sep. sept. oct. nov. dec. u.s. u.k. a.m. p.m.
"""
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())


def may_end(text: str) -> bool:
    """Whether a sentence may end with `text`; what is written next can still show that it does not (`goes_on`)."""
    line = text.rstrip(" ")
    if "\n" in line and line.strip() and line.rstrip() != line:
        return True  # a new line after some text
    found = _ENDING.search(line)
    if found is None:
        return False
    if found["stops"] != "." or found["closers"].strip("*_"):
        return True
    bare = line.rstrip("*_")
    word = _LAST_WORD.search(bare)
    return not (_LIST_NUMBER.search(bare) or _INITIAL.search(bare) or (word and word[0].lower() in ABBREVIATIONS))


def goes_on(text: str, following: str) -> bool:
    """Whether the sentence `text`, which may end, goes on with `following` (the next token's text, spaces kept)."""
    found = _ENDING.search(text)
    if found is None or not following:
        return False  # a new line, or the end
    if following[0] in CLOSERS + STOPS + WIDE_STOPS and not following[1:].strip(CLOSERS + STOPS + WIDE_STOPS):
        return True  # "..." or a closing quote still belongs to it
    if found["stops"] == "." and not found["closers"]:
        return following[0].isdigit() or following[0].islower()  # 3.5, www.name.org
    ellipsis = found["stops"].startswith(("..", "…"))
    inside = bool(found["closers"]) or ellipsis  # 'shouted "Stop!" and ran', "well... perhaps"
    return inside and following.lstrip()[:1].islower()


def split_sentences(text: str) -> list[str]:
    """The sentences of a whole text, without the white space around them."""
    parts, start = [], 0
    for found in _CANDIDATE.finditer(text):
        end = found.end()
        following = _NEXT_WORD.match(text, end)
        if may_end(text[start:end]) and not goes_on(text[start:end].rstrip(" "), following[0] if following else ""):
            parts.append(text[start:end])
            start = end
    return [part.strip() for part in (*parts, text[start:]) if part.strip()]


class SentenceRule(Protocol):
    """What the search asks about sentence ends. `waits` is asked only where `could_end` holds for the newest token."""

    could_end: Bool[Tensor, " vocab"]

    def waits(self, ids: tuple[int, ...]) -> bool:
        """Whether a sentence may end with `ids`, the next token deciding."""

    def goes_on(self, ids: tuple[int, ...], token: int) -> bool:
        """Whether `token` belongs to the sentence of `ids`, which waits; otherwise the sentence ended before it."""


class TextRule:
    """Sentences end where their text says so; needs one token of look-ahead."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        """`size`: number of rows of the model's logits, which can be more than the tokenizer knows."""
        self._tokenizer = tokenizer
        self._texts: dict[tuple[int, ...], str] = {}
        known = min(size, len(tokenizer))
        pieces = tokenizer.batch_decode([[token] for token in range(known)], clean_up_tokenization_spaces=False)
        # U+FFFD: part of a character written in several tokens, which may be a wide full stop.
        marks = frozenset(STOPS + WIDE_STOPS + "\n\ufffd")
        self.could_end = torch.tensor([not marks.isdisjoint(piece) for piece in pieces] + [False] * (size - known))

    def text(self, ids: tuple[int, ...]) -> str:
        """Their text without special tokens; kept, since the rows of a search share most of it."""
        if ids not in self._texts:
            if len(self._texts) > 100_000:
                self._texts.clear()
            self._texts[ids] = str(
                self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
            )
        return self._texts[ids]

    def waits(self, ids: tuple[int, ...]) -> bool:
        return may_end(self.text(ids))

    def goes_on(self, ids: tuple[int, ...], token: int) -> bool:
        text, more = self.text(ids), self.text((*ids, token))
        return goes_on(text, more[len(text) :])


class TokenRule:
    """A sentence ends with exactly one token, the full stop at a word's end (the authors' rule)."""

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.period = period_id(tokenizer)
        self.could_end = torch.zeros(size, dtype=torch.bool)
        self.could_end[self.period] = True

    def waits(self, ids: tuple[int, ...]) -> bool:
        return bool(ids) and ids[-1] == self.period

    def goes_on(self, ids: tuple[int, ...], token: int) -> bool:
        return False


def period_id(tokenizer: Any, words: Sequence[str] = ("a", "dog", "image")) -> int:
    """The id a full stop gets at the end of a word (29889 in LLaVA-1.5).

    Raises:
        InputError: the tokenizer has no such token of its own.
    """
    last = {tuple(_ids(tokenizer, f"{word}.")[-1:]) for word in words}
    found = {ids[0] for ids in last if ids and tokenizer.decode(list(ids)).strip() == "."}
    if len(last) != 1 or len(found) != 1:
        raise InputError(
            "generate.sentence_end is 'token', which needs a tokenizer that writes the full stop after a word as one "
            f"token of its own; this one ends {[f'{word}.' for word in words]} with {sorted(last)}: "
            "set generate.sentence_end: text"
        )
    return found.pop()


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def sentence_rule(kind: str, tokenizer: Any, size: int) -> SentenceRule:
    """The rule of `generate.sentence_end` for logits of `size` rows."""
    return TextRule(tokenizer, size) if kind == "text" else TokenRule(tokenizer, size)
