"""The entries of `docs/trouble.md`, and how they stand to the messages."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.docs.messages import FILLED, Message, normal

SPAN = re.compile(r"(?P<ticks>`+)(?!`)(?P<text>(?:(?<!`)(?!(?P=ticks)(?!`))`+|[^`])+)(?P=ticks)")
# A variable of the shell that must be set, or a check in a line of Python: what is said where it is not so.
REQUIRED = re.compile(r"\$\{\w+:\?([^}]*)\}|assert .*, \"(.*)\"")


@dataclass(frozen=True)
class Entry:
    """`told`: messages, or their beginnings with a `…` behind. `text`: why they come and what to do."""

    line: int
    told: tuple[str, ...]
    text: str


def entries(page: str) -> list[Entry]:
    """The list items that begin with a code span and a line break."""
    found = []
    for item in re.finditer(r"^- (.*(?:\n  .*)*)", page, re.MULTILINE):
        parts = [normal(part) for part in item[1].split("<br>")]
        told = [span["text"].strip() for part in parts[:-1] if (span := SPAN.fullmatch(part))]
        if told:
            rest = " ".join(part for part in parts if not SPAN.fullmatch(part))
            found.append(Entry(page[: item.start()].count("\n") + 1, tuple(told), rest))
    return found


def stands_for(told: str, message: str) -> bool:
    """Whether `told` is the message, or its beginning with a `…` behind."""
    return told == message or (told.endswith(FILLED) and message.startswith(told.removesuffix(FILLED)))


def matched(told: str, messages: Iterable[Message]) -> list[Message]:
    """The messages that `told` stands for; only those of it that it is word for word, where there are some."""
    found = [one for one in messages if stands_for(told, one.template)]
    return [one for one in found if one.template == told] or found


def shell_messages(root: Path) -> list[Message]:
    """What make says of an old Python, and the shell and compose where a variable is not set."""
    return [
        Message(file.relative_to(root).as_posix(), number, normal(text), text)
        for file in (root / "Makefile", *sorted((root / "docker").iterdir()))
        if file.suffix in ("", ".sh", ".yaml")
        for number, line in enumerate(file.read_text("utf-8").splitlines(), 1)
        for texts in REQUIRED.findall(line)
        for text in texts
        if text
    ]
