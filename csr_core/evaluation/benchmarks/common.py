"""What the benchmarks share: a question, the prompts of LLaVA-1.5's evaluation, options and accuracies.

The prompts and caps on tokens are those of `scripts/v1_5/eval` and `llava/eval` of github.com/haotian-liu/LLaVA, which
the paper's figures were measured with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csr_core.errors import InputError
from csr_core.evaluation.statistics import Counts, Item
from csr_core.images import Embedded

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
LETTERS = "ABCDEFGH"
SHORT_TOKENS, LONG_TOKENS = 128, 1024  # the caps of LLaVA's two scripts: short answers; letters and free text


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    key: names it, once in a benchmark. picture: names its picture, so that questions on one picture are known to belong
    together. facts: what is needed to score an answer.
    """

    key: str
    picture: str
    image: Path | Embedded
    prompt: str
    max_new_tokens: int
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Reading:
    """The questions in a folder, the rows that could not be used with the reason, and what figures depend on."""

    questions: list[Question] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)  # prompt_id, reason
    stated: dict[str, Any] = field(default_factory=dict)

    def drop(self, key: Any, reason: str) -> None:
        self.left_out.append({"prompt_id": str(key), "reason": reason})


def missing_fields(row: Any, fields: Sequence[str]) -> str:
    """Why a row cannot be used; empty where it has all fields."""
    if not isinstance(row, Mapping):
        return f"expected an object with {', '.join(fields)}, got {row!r:.100}"
    lacking = [name for name in fields if row.get(name) is None]
    return f"lacks {', '.join(lacking)}: is it cut off, or of another version?" if lacking else ""


def file_of(folder: Path, *patterns: str) -> Path:
    """The first file below `folder` that one of the patterns names.

    Raises:
        InputError: there is none.
    """
    for pattern in patterns:
        if found := sorted(folder.glob(pattern)):
            return found[0]
    raise InputError(
        f"expected {' or '.join(patterns)} in {folder}, found none: `csr evaluate --list` says where to get it"
    )


def with_options(question: str, options: Sequence[str]) -> str:
    """The question, its options a line each, and the request for a letter."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
    return "\n".join([question, *lines, LETTER])


def figure_name(text: str) -> str:
    """`text` as part of a figure's name: lower case, and nothing but letters, digits and underscores."""
    return re.sub(r"\W+", "_", text.lower()).strip("_")


def accuracy_item(question: Question, right: float, unparsed: bool, groups: Iterable[str] = ()) -> Item:
    """The counts of one answer: `accuracy`, also in each of its groups, and `unparsed`."""
    counts: Counts = {"accuracy": (float(right), 1.0)}
    counts |= {f"accuracy_{figure_name(group)}": (float(right), 1.0) for group in groups}
    counts["unparsed"] = (float(unparsed), 1.0)
    return Item(question.key, question.picture, counts)


def judged_item(
    question: Question, answer: str, figure: str, rated: tuple[float, float] | None, groups: Iterable[str] = ()
) -> Item:
    """The counts of one answer that a judge rates: `figure`, also in each group, `unjudged`, and `unparsed` (empty).

    `rated`: (numerator, denominator) of the figure; None where there is no judgement.
    """
    counts: Counts = {}
    if rated is not None:
        counts |= dict.fromkeys((figure, *(f"{figure}_{figure_name(group)}" for group in groups)), rated)
    counts["unjudged"] = (float(rated is None), 1.0)
    counts["unparsed"] = (float(not answer.strip()), 1.0)
    return Item(question.key, question.picture, counts)
