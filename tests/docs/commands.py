"""The shell commands of README.md and docs/: those of fenced blocks, and those named in running text.

The rule: a fenced block holds commands if it is tagged `sh`, or has no tag and begins with the name of a program. A
command goes on over the following lines as long as bash waits for more (a backslash, a loop, a here-document).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROJECT = Path(__file__).parents[2]
# What a line or a piece of inline code begins with that is a command.
PROGRAMS = ("csr", "dvc", "prefect", "mlflow", "make", "python", "git", "docker", "docker-compose", "pip", "hf", "ray")
PROGRAMS += ("torchrun", "mkdocs")
SHELL_WORDS = ("export", "cp", "mv", "rm", "mkdir", "source", "cd", "curl", "until", "ssh", "unset", "open")
FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>```+|~~~+)\s*(?P<tag>[\w-]*)")


@dataclass(frozen=True)
class Command:
    """One command as a page has it."""

    page: str  # from the project's root
    line: int
    text: str  # every line of it, comments too

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def plain(self) -> str:
        """On one line, without comments: what tables name it by."""
        lines = [without_comment(line).removesuffix("\\") for line in self.text.splitlines()]
        return " ".join(" ".join(lines).split())


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    page: str
    line: int  # of its first line of text
    tag: str
    lines: tuple[str, ...]

    @property
    def is_shell(self) -> bool:
        return self.tag == "sh" or (self.tag == "" and begins_with_program(next(iter(self.lines), "")))

    @property
    def commands(self) -> list[Command]:
        """What a shell would take for one, each with its line."""
        found, begun, start = [], [], self.line
        for number, line in enumerate(self.lines, self.line):
            if not begun and not without_comment(line):
                continue
            start = start if begun else number
            begun.append(line)
            if not waits("\n".join(begun)):
                found.append(Command(self.page, start, "\n".join(begun)))
                begun = []
        if begun:
            found.append(Command(self.page, start, "\n".join(begun)))
        return found


def begins_with_program(line: str) -> bool:
    """`VAR=value` before the program does not matter; alone it is no command."""
    words = [word for word in line.split() if not re.match(r"[A-Z_]+=", word)]
    return bool(words) and words[0] in (*PROGRAMS, *SHELL_WORDS)


def without_comment(line: str) -> str:
    """The line up to a `#` that begins a word outside quotes."""
    for mark in re.finditer(r"(?:^|\s)#", line):
        before = line[: mark.start()]
        if before.count("'") % 2 == before.count('"') % 2 == 0:
            return before.strip()
    return line.strip()


def waits(text: str) -> bool:
    """Whether bash would wait for another line."""
    if text.endswith("\\"):
        return True
    done = subprocess.run(["bash", "-n"], input=text + "\n", capture_output=True, text=True)
    return "unexpected end of file" in done.stderr or "here-document" in done.stderr


def pages() -> list[str]:
    """README.md and every page of docs/, from the project's root."""
    return ["README.md", *sorted(str(path.relative_to(PROJECT)) for path in (PROJECT / "docs").rglob("*.md"))]


@cache
def blocks(page: str) -> list[Block]:
    """Every fenced block of a page."""
    return blocks_in((PROJECT / page).read_text("utf-8"), page)


def blocks_in(text: str, page: str) -> list[Block]:
    """Every fenced block of a text."""
    found: list[Block] = []
    open_at, tag, indent, fence, inside = 0, "", 0, "", []
    for number, line in enumerate(text.splitlines(), 1):
        mark = FENCE.match(line)
        if not open_at and mark:
            open_at, tag, indent, fence = number, mark["tag"], len(mark["indent"]), mark["fence"]
        elif open_at and mark and mark["fence"].startswith(fence) and not mark["tag"]:
            found.append(Block(page, open_at + 1, tag, tuple(inside)))
            open_at, inside = 0, []
        elif open_at:
            inside.append(line[indent:] if not line[:indent].strip() else line)
    assert not open_at, f"{page}:{open_at}: a block is opened and not closed"
    return found


def shell_blocks(page: str) -> list[Block]:
    return [block for block in blocks(page) if block.is_shell]


@cache
def commands() -> list[Command]:
    """Every command of a fenced block."""
    return [command for page in pages() for block in shell_blocks(page) for command in block.commands]


def inline_commands() -> Iterator[Command]:
    """Inline code that begins with a program's name; `VAR=value` before it is left out."""
    for page in pages():
        text = (PROJECT / page).read_text("utf-8")
        for block in blocks(page):  # blank, so that lines keep their numbers
            lines = text.split("\n")
            for number in range(block.line - 1, block.line + len(block.lines) + 1):
                lines[number - 1] = ""
            text = "\n".join(lines)
        for code in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
            words = " ".join(code[1].split())
            words = re.sub(r"^(?:[A-Z_]+=\S+ )+", "", words)
            if words.split()[0] in PROGRAMS:
                yield Command(page, text.count("\n", 0, code.start()) + 1, words)
