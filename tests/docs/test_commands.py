"""No command of README.md and docs/ is left out: each is in a block that is run, or exists as running text names it."""

import ast
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import metadata
from importlib.util import find_spec

import pytest
from packaging.requirements import Requirement

from tests.docs import tables, test_run_pages_a_to_f, test_run_pages_g_to_z, test_run_readme
from tests.docs.commands import (
    PROJECT,
    Command,
    begins_with_program,
    blocks,
    blocks_in,
    commands,
    inline_commands,
    pages,
)
from tests.docs.tables import NAMES, REPLACED, RUN_ELSEWHERE, STAND_IN, TABLES, entry
from tests.e2e.site import BIN

MADE_UP = """
```
csr run --set a=1 \\
        --set b=2      # two lines
# a comment alone

until csr check; do    # a loop
  sleep 1
done
A=1 csr up && echo "# no comment"
```
- in a list
  ```sh
  anything goes
  ```

```
PREFECT_UI_API_URL=https://prefect.example.org/api
```

```
flows/     a tree of files
```

```text
csr: no command
```
"""


def test_commands_are_found() -> None:
    found = [(one.line, one.plain) for block in blocks_in(MADE_UP, "x") if block.is_shell for one in block.commands]
    assert found == [
        (3, "csr run --set a=1 --set b=2"),
        (7, "until csr check; do sleep 1 done"),
        (10, 'A=1 csr up && echo "# no comment"'),
        (14, "anything goes"),
    ]


def test_every_page_with_commands_is_run() -> None:
    run = {*test_run_readme.PAGES, *test_run_pages_a_to_f.PAGES, *test_run_pages_g_to_z.PAGES}
    left = [command.place for command in commands() if command.page not in run]
    assert not left, f"no test runs these pages: {left}"
    assert len(commands()) > 50  # they are found at all


def test_no_command_hides_in_a_block_that_is_not_run() -> None:
    for page in pages():
        for block in blocks(page):
            for number, line in enumerate(block.lines, block.line):
                assert block.is_shell or not (begins_with_program(line) and line.split()[0] in tables.OURS), (
                    f"{page}:{number}: `{line}` looks like a command and is in a block tagged {block.tag or '-'}: "
                    "put it into one tagged sh, where a test runs it"
                )


def test_every_command_begins_with_a_program_that_is_known() -> None:
    """A block of commands may hold nothing else: what commands print belongs into a block tagged text."""
    for command in commands():
        assert begins_with_program(command.plain), (
            f"{command.place}: `{command.plain}` begins with no program of tests/docs/commands.py: if it is output, "
            "put it into a block tagged text; if it is a command, add the program there"
        )


def test_no_table_has_an_entry_without_a_command() -> None:
    found = [*commands(), *inline_commands()]
    for table in TABLES:
        for key in table:
            assert any(entry({key: ""}, command) for command in found), f"tables.py: no page has `{key}` any more"
    for text in REPLACED:
        assert any(text in command.text for command in found), f"tables.py: no command has `{text}` any more"
    for pattern in NAMES:
        assert any(re.fullmatch(pattern, command.plain) for command in inline_commands()), f"no page has {pattern}"


@pytest.mark.parametrize(("key", "test"), RUN_ELSEWHERE.items())
def test_what_is_run_elsewhere_is(key: str, test: str) -> None:
    """The test is there, and holds each word of the command's program and subcommands as a word of its own."""
    file, _, name = test.partition("::")
    source = (PROJECT / file).read_text("utf-8")
    [function] = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == name]
    body = ast.get_source_segment(source, function)
    for word in key.split():
        assert re.search(rf"\b{re.escape(word)}\b", body or ""), f"{test} does not run `{key}`: it has no {word}"


def test_commands_that_are_only_named_exist() -> None:
    """Those of running text, and those of blocks for which something else is run: program, subcommands, options."""
    found = [command for command in commands() if entry(STAND_IN, command) or entry(RUN_ELSEWHERE, command)]
    found += [one for one in inline_commands() if not any(re.fullmatch(name, one.plain) for name in NAMES)]
    with ThreadPoolExecutor(2) as pool:
        wrong = [told for told in pool.map(unknown, {command.plain: command for command in found}.values()) if told]
    assert not wrong, "\n".join(wrong)


def unknown(command: Command) -> str:
    """What the program does not know of a command; "" where it knows all of it."""
    words = command.plain.split()
    if shutil.which(words[0], path=f"{BIN}{os.pathsep}{os.environ['PATH']}") is None:
        # Only what comes with the project must be there.
        return f"{command.place}: there is no program {words[0]}" if words[0] in tables.OURS else ""
    if len(words) == 1 or words[0] in ("docker", "docker-compose"):
        return ""
    if words[:2] == ["pip", "install"]:
        asked = [Requirement(word.strip("'")) for word in words[2:]]
        lost = [str(one) for one in asked if one.extras - set(metadata(one.name).get_all("Provides-Extra") or ())]
        return f"{command.place}: {lost} has no such extra" if lost else ""
    if words[0] == "make":
        return _told(command, f"make --dry-run {' '.join(words[1:])}", [])
    if words[0] == "git":
        return _told(command, f"git {words[1]} -h", [], statuses=(0, 129))
    if words[:2] == ["python", "-m"]:
        if find_spec(words[2]) is None:
            return f"{command.place}: there is no module {words[2]}"
        if len(words) == 3:
            return ""  # some take no arguments, and would start to work
        words = words[3:]
    options = [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]
    return _told(command, f"{command.plain} --help", options)


def _told(command: Command, asked: str, options: list[str], statuses: tuple[int, ...] = (0,)) -> str:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "250", "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-c", asked], cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode not in statuses:
        return f"{command.place}: `{command.plain}` is not known:\n{done.stdout[-800:]}{done.stderr[-800:]}"
    lost = [option for option in options if not re.search(rf"(?<![\w-]){option}(?![\w-])", done.stdout)]
    return f"{command.place}: `{command.plain}`: its program has no {', '.join(lost)}" if lost else ""
