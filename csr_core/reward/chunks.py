"""Split a text that is longer than a text tower's context, so that no word of it goes unread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

_CLAUSE_ENDS = (",", ";", ":", ".", "!", "?")


class TextFitter:
    """Says whether a text fits into the context of an open_clip tokenizer, whatever kind of tokenizer it is."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.context = int(tokenizer.context_length)
        # An empty text in a long row is nearly all padding.
        self.padding = int(tokenizer([""], context_length=4 * self.context)[0].mode().values)

    def fits(self, text: str) -> bool:
        """Whether the tokenizer reads all of `text`: given twice the room, it must find nothing more."""
        # A character is four bytes at most, and a byte one token: so short a text fits without asking.
        if 4 * len(text) + 2 <= self.context:
            return True
        row, roomy = (self.tokenizer([text], context_length=size * self.context)[0] for size in (1, 2))
        return torch.equal(self._used(row), self._used(roomy))

    def ends(self, rows: Int[Tensor, "texts context"]) -> list[int]:
        """For each row the number of its tokens up to the last that is not padding."""
        places = torch.arange(1, rows.shape[1] + 1) * (rows.cpu() != self.padding)
        return [max(1, end) for end in places.amax(-1).tolist()]

    def _used(self, row: Int[Tensor, " context"]) -> Int[Tensor, " tokens"]:
        """The row without the padding at its ends."""
        used = torch.nonzero(row != self.padding).flatten()
        return row[used[0] : used[-1] + 1] if used.numel() else row[:0]


def split_to_fit(text: str, fits: Callable[[str], bool]) -> list[str]:
    """`text` in as few chunks, each of which `fits`, as a greedy walk finds; [text] itself where it fits whole.

    A chunk ends at the end of a clause where one lies in its second half, otherwise between words; a word that does
    not fit is halved until it does.
    """
    if fits(text):
        return [text]
    words, chunks = text.split(), []
    while words:
        count = _longest(words, fits)
        if count == 0:
            words[:1] = _halves(words[0], fits)
            continue
        if count < len(words):
            clauses = [end for end in range(count // 2 + 1, count + 1) if words[end - 1].endswith(_CLAUSE_ENDS)]
            count = clauses[-1] if clauses else count
        chunks.append(" ".join(words[:count]))
        words = words[count:]
    return chunks or [text]


def _longest(words: list[str], fits: Callable[[str], bool]) -> int:
    """The largest n for which the first n words fit, by bisection (more words are never fewer tokens)."""
    low, high = 0, len(words)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(" ".join(words[:middle])) else (low, middle - 1)
    return low


def _halves(word: str, fits: Callable[[str], bool]) -> list[str]:
    if fits(word) or len(word) == 1:  # one character that does not fit cannot be split: it is left to the tokenizer
        return [word]
    middle = len(word) // 2
    return _halves(word[:middle], fits) + _halves(word[middle:], fits)
