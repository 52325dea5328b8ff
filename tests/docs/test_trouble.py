"""Every message that a user can meet has an entry in docs/trouble.md, and every entry there has a message."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

from tests.docs.messages import Message, Source
from tests.docs.page import Entry, entries, matched, shell_messages

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "trouble.md"
PACKAGES = ("csr_core", "tasks", "flows", "docker")

# Functions whose texts only stand inside other messages, and are searched for all the same.
INSIDE = (
    "csr_core.memory.report:_too_much",
    "csr_core.params:_problem",
    "csr_core.policy.sources:to_do",
    "csr_core.policy.sources:told",
    "csr_core.prompt_sources:_line",
)

# Texts that are handed on: no message of their own. (file, expression): where what they say is collected.
HANDED_ON = {
    ("csr_core/checks.py", "problem"): "problems.append in missing_files",
    ("csr_core/params.py", "item['msg']"): "config.py's validators; pydantic's own are under Settings",
    ("csr_core/params.py", "f'{place}: {message}{got}'"): "the same",
    ("csr_core/preference/exchange.py", "row"): "prompt_sources._line",
    ("csr_core/preference/forms.py", "{**pair, **{key: own.get(key) for key in OUR_KEYS}}"): "no text, but a pair",
    ("csr_core/preference/pairs.py", "Pair(prompt_id, chosen, rejected)"): "no text, but a pair",
    ("csr_core/prompt_sources.py", "json.loads(line)"): "no text, but a row",
    ("csr_core/prompts.py", "row"): "prompt_sources._line",
    ("csr_core/stages/__main__.py", "f'csr: {error}'"): "any CsrError",
    ("csr_core/stages/score.py", "f\"{left_out[0]['prompt_id']}: {left_out[0]['reason']}\""): "a reason",
    ("flows/cli.py", "f'csr: {error}'"): "any CsrError",
    ("flows/cli_reward.py", "f'\\nREFUSED: {refusal(trial)}'"): "verdict.refusal",
    ("tasks/process.py", "file.read_text('utf-8')"): "any CsrError, from the stage's process",
    ("tasks/store.py", "(str(error).splitlines() or [''])[0][:500]"): "MLflow's own words",
}
PROGRESS = "csr_core/progress.py"  # its lines are news, no messages
RAISED_AGAIN = ("csr_core/stages/launch.py", "raise cause from None")  # what a rank raised

# What only a mistake in the project's own code can raise.
INTERNAL = {
    "expected the folders of several runs, got none",
    "keep_by is 'reward': a function that gives the rewards is needed",
    "reward.likelihood is 'beam_score', and the search's score of the sentence was not given",
    "several tokens at once are for rows without own tokens",
    "unknown model …: use one of …",
}


@pytest.fixture(scope="module")
def source() -> Source:
    return Source(ROOT, PACKAGES)


@pytest.fixture(scope="module")
def collected(source: Source) -> list[Message]:
    """With those that are handed on."""
    return [*source.messages(INSIDE), *shell_messages(ROOT)]


@pytest.fixture(scope="module")
def messages(collected: list[Message]) -> list[Message]:
    return [one for one in collected if one.words >= 2 and one.template not in INTERNAL]


@pytest.fixture(scope="module")
def told() -> list[Entry]:
    return entries(PAGE.read_text("utf-8"))


def test_every_raise_is_understood(source: Source) -> None:
    unread = [line for line in source.unread() if not (line.startswith(RAISED_AGAIN[0]) and RAISED_AGAIN[1] in line)]
    assert not unread, "raised is what the collector cannot follow; raise an error of the project by its name:\n" + (
        "\n".join(unread)
    )


def test_every_text_is_read_or_known_to_be_handed_on(collected: list[Message]) -> None:
    unread = {(one.file, one.source): one for one in collected if one.words < 2 and one.file != PROGRESS}
    new = [str(unread[key]) for key in unread.keys() - HANDED_ON.keys()]
    assert not new, "texts that the collector cannot read; write them where they are raised, or add to HANDED_ON:\n" + (
        "\n".join(new)
    )
    assert not HANDED_ON.keys() - unread.keys(), "no longer handed on: take out of HANDED_ON"


def test_every_message_has_an_entry(messages: list[Message], told: list[Entry]) -> None:
    found = {one for entry in told for text in entry.told for one in matched(text, messages)}
    known = {one.template for one in found}
    lacking = [str(one) for one in messages if one.template not in known]
    assert not lacking, f"{len(lacking)} without an entry in {PAGE.name}:\n" + "\n".join(lacking)


def test_every_entry_has_its_message(messages: list[Message], told: list[Entry]) -> None:
    """Its own: an entry that is so short that several messages begin so would hide a new one."""
    wrong = []
    for entry in told:
        for text in entry.told:
            found = matched(text, messages)
            if not found:
                wrong.append(f"{PAGE.name}:{entry.line}: no message is, or begins so: {text}")
            elif len({one.template for one in found}) > 1 and len({(one.file, one.line) for one in found}) > 1:
                wrong.append(f"{PAGE.name}:{entry.line}: several begin so: {text}\n  " + "\n  ".join(map(str, found)))
    assert not wrong, "\n".join(wrong)


def test_internal_messages_are_still_there(collected: list[Message]) -> None:
    assert not INTERNAL - {one.template for one in collected}


def test_entries_explain_and_are_told_once(told: list[Entry]) -> None:
    assert not [entry for entry in told if len(entry.text.split()) < 8]
    texts = [text for entry in told for text in entry.told]
    assert sorted(set(texts)) == sorted(texts)


def test_links_lead_somewhere() -> None:
    page = PAGE.read_text("utf-8")
    headings = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)", page, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", page):
        file, _, anchor = target.partition("#")
        assert (PAGE.parent / file).exists() if file else anchor in headings, target


MADE_UP = {
    "errors.py": """
        class CsrError(Exception): ...
        class InputError(CsrError): ...
        class OddError(InputError): ...
        REASON = "a constant far away"
    """,
    "forms.py": """
        import sys, typer, warnings, logging
        from made.errors import InputError, OddError, REASON
        from made.checks import Finding
        log = logging.getLogger()
        HERE = "a constant of the file"

        def fstring(path): raise InputError(f"there is no {path}: look again")
        def sum_of_texts(n): raise InputError("one and " + ("two" if n else "three") + f" of {n}")
        def subclass(): raise OddError("of a class below it")
        def constant(): raise InputError(HERE)
        def far_constant(): raise InputError(REASON)
        def variable(n):
            text = "first of two"
            if n:
                text = f"second of {n}"
            raise InputError(text)
        def pair(): a, text = 1, "one of a tuple"; raise InputError(text)
        def caught():
            try: ...
            except OddError as error: raise InputError(str(error))
        def made(): raise _make(1)
        def _make(n): return InputError(f"made by a helper, {n} times")
        def said(): raise InputError(_say())
        def _say(): return "said by a helper"
        def parameter(): _refuse("given as an argument"); _refuse(text="given by name")
        def _refuse(text): raise InputError(text)
        class Held:
            def drop(self, key, why): return {"key": key, "reason": why}
        def left_out(held): held.drop("k", "left out for this")
        def validator(): raise ValueError("a setting of this kind")
        def parameter_error(): raise typer.BadParameter("an option of this kind")
        def end(): raise SystemExit("the end of it")
        def told(x):
            print(f"waiting for {x}", file=sys.stderr)
            warnings.warn("something to mind")
            log.warning("%d items of %s", 1, "x")
            typer.echo("echoed to them", err=True)
            print("only the news of the day")
        def check(ok, lines):
            yield Finding(True, "files", "all is well")
            yield Finding(False, "files", "not all is well")
            yield from (Finding(fits, "memory", text) for fits, text in _lines())
        def _lines():
            yield True, "it fits in there"
            yield False, "it is too large"
        def problems(): problems = []; problems.append("a problem among several"); return problems
    """,
    "checks.py": "class Finding: ...",
}


def made_up(folder: Path, files: dict[str, str]) -> Source:
    (folder / "made").mkdir()
    for name, text in files.items():
        (folder / "made" / name).write_text(dedent(text), "utf-8")
    return Source(folder, ["made"])


def test_the_collector_finds_each_form(tmp_path: Path) -> None:
    source = made_up(tmp_path, MADE_UP)
    assert {one.template for one in source.messages()} == {
        "there is no …: look again", "one and two of …", "one and three of …", "of a class below it",
        "a constant of the file", "a constant far away", "first of two", "second of …", "one of a tuple",
        "made by a helper, … times", "said by a helper", "given as an argument", "given by name", "left out for this",
        "a setting of this kind", "an option of this kind", "the end of it", "waiting for …", "something to mind",
        "… items of …", "echoed to them", "not all is well", "it is too large", "a problem among several",
    }  # fmt: skip
    assert source.unread() == []
    [one] = [one for one in source.messages() if one.template == "left out for this"]
    assert (one.file, "left out for this" in MADE_UP["forms.py"].splitlines()[one.line - 1]) == ("made/forms.py", True)


def test_what_cannot_be_followed_is_not_passed_over(tmp_path: Path) -> None:
    text = """
        class CsrError(Exception): ...
        def a(kind): raise kind("of any class")
        def b(words): raise CsrError(words["x"])
        def c(words): raise CsrError(f"{words}: {words}")
        def d(): raise KeyError("of a class that is none of ours")
    """
    source = made_up(tmp_path, {"odd.py": text})
    assert [line.partition(": ")[2] for line in source.unread()] == [
        "raise kind('of any class')", "raise KeyError('of a class that is none of ours')"
    ]  # fmt: skip
    assert [(one.template, one.words) for one in source.messages()] == [("…", 0), ("…: …", 0)]


def test_an_entry_is_the_message_or_its_beginning() -> None:
    page = "- `there is no …`<br>\n  `` run `csr` ``<br>\n  Because of this and that.\n- **no entry** `code`: text\n"
    [entry] = entries(page)
    assert (entry.line, entry.told, entry.text) == (1, ("there is no …", "run `csr`"), "Because of this and that.")
    messages = [Message("a.py", 1, "there is no …: look again", ""), Message("a.py", 2, "there is nothing", "")]
    assert matched("there is no …", messages) == messages[:1]
    assert matched("there is no…", messages) == messages
    assert matched("there is no", messages) == []
