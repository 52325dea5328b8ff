"""A folder as a reader of the pages has it, and a shell in it that runs the commands of a block."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from PIL import Image

from csr_core.miniature.dataset import write_split
from csr_core.preference.forms import to_authors
from tests.docs.commands import Block, Command, commands
from tests.docs.smaller import SMALLER
from tests.docs.tables import AFTER, BEFORE, ONCE, REPLACED, RUN_ELSEWHERE, SAYS, SERVERS, STAND_IN, entry
from tests.dpo.world import scene_preferences
from tests.e2e.site import BIN, Site
from tests.evaluation.benchmarks import folders
from tests.services.ports import free_port
from tests.test_tables import make_run

SECONDS = 900  # for the commands of a block, on a busy machine
HEAD = """
exec 2>&1
at() { printf '\\n@@ %s\\n' "$1"; }
ready() {  # phrase, log: waits until the server that was started last has printed the phrase
  until grep -qs "$1" "$2"; do kill -0 $! || { cat "$2"; exit 1; }; sleep 0.2; done
  cat "$2"
}
"""
STARTS_PREFECT = ("prefect server start", "csr up", "make up")


def finished_run(folder: Path, prefect: str) -> None:
    """A checkout in which `csr run` has ended, with what the pages take for granted: pictures, prompts, benchmarks.

    Args:
        prefect: the URL of a Prefect server's API.
    """
    site = Site(folder, urlsplit(prefect).port or 0, "iterations=3", *SMALLER)
    site.run("csr", "run")
    pictures(folder)
    for name in ("gqa", "mm_vet"):
        folders.MAKERS[name](folder / "data" / name)
    answers = {"gqa": {"key": "201", "answer": "yes"}, "mm_vet": {"key": "v1_0", "answer": "-1"}}
    for name, row in answers.items():
        folders.write(folder / f"answers/{name}_answers.jsonl", [row], lines=True)
    for seed in range(3):
        make_run(folder / "runs" / f"seed_{seed}", seed)


def pictures(folder: Path) -> None:
    """Prompts with pictures under COCO's names, a set of pairs as the authors publish it, annotated pictures."""
    train = folder / "coco" / "train2014"
    rows = scene_preferences(train, 12)
    prompts = []
    for number, row in enumerate(rows):
        name = f"COCO_train2014_{number:012}.jpg"
        with Image.open(row["images"][0]) as picture:
            picture.save(train / name)
        Path(row["images"][0]).unlink()
        row["images"] = [f"train2014/{name}"]
        prompts.append({"id": str(number), "image": f"{number:012}.jpg", "prompt": "Describe the image."})
    (folder / "prompts.json").write_text(json.dumps(prompts))
    published = [to_authors(row, row["images"]) for row in rows]
    (folder / "CSR-set.json").write_text(
        json.dumps([{k: v for k, v in row.items() if k != "csr"} for row in published])
    )
    shutil.copy(train / "COCO_train2014_000000000000.jpg", folder / "photo.jpg")
    write_split(folder / "val", "validation", count=160, seed=0)
    (folder / "val" / "instances.json").rename(folder / "instances_val2017.json")
    (folder / "val" / "images").rename(folder / "val2017")
    shutil.rmtree(folder / "val")


def copied(run: Path, folder: Path) -> None:
    """A copy of a finished run, where `make` finds its environment made."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns(".prefect"), symlinks=True)
    store = folder / "mlruns" / "mlflow.db"
    with contextlib.closing(sqlite3.connect(store)) as database:  # it names its folder in full
        text = "\n".join(database.iterdump()).replace(str(run), str(folder))
    store.unlink()
    with contextlib.closing(sqlite3.connect(store)) as database:
        database.executescript(text)
    (folder / ".venv").mkdir()
    (folder / ".venv" / "bin").symlink_to(BIN)
    (folder / ".venv" / "installed").touch()


@dataclass(frozen=True)
class Reader:
    """Goes through a page in a folder of its own; each block is a new shell in it."""

    folder: Path
    places: Mapping[str, str]  # what stands in REPLACED

    def runs(self, block: Block) -> None:
        """Run a block's commands, and end what they left running; nothing where all of them stand on an earlier page.

        Raises:
            AssertionError: one ended with another status than 0, or has not said what it should.
        """
        found = block.commands
        if not any(map(first, found)):
            return
        log = self.folder.parent / "shell.log"
        script = HEAD + "\n".join(self._told(command) for command in found)
        try:
            with log.open("wb") as out:
                done = subprocess.run(
                    ["bash", "-c", script], cwd=self.folder, env=self._environment(found), timeout=SECONDS,
                    stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, check=False,
                )  # fmt: skip
            failed = f"ended with {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            failed = f"has not ended after {SECONDS} s"
        finally:
            end_marked(self.folder)
        said = self._parts(log.read_text("utf-8", "replace"))
        last = list(said)[-1]
        assert not failed, (
            f"{last}: this command {failed}: mend it, or say in tests/docs/tables.py what is different in a test. It "
            f"printed:\n{said[last]}"
        )
        for command in found:
            if not run_before(command) and (key := entry(SAYS, command)):
                place = command.place
                assert SAYS[key] in said[place], (
                    f"{place}: expected {SAYS[key]!r} (SAYS in tables.py) in\n{said[place]}"
                )

    def _told(self, command: Command) -> str:
        """The lines of the shell's script for a command."""
        lines = [f"at {command.place}", self._filled(BEFORE, command)]
        if key := entry(STAND_IN, command):
            lines.append(self._braced(STAND_IN[key][0].format(**self.places)))
        elif entry(RUN_ELSEWHERE, command) or run_before(command):
            return lines[0]
        elif (key := entry(SERVERS, command)) and not command.plain.endswith("&"):
            log = self.folder.parent / f"{command.plain.split()[0]}-{command.line}.log"
            lines += [f"{self._replaced(command.plain)} > {log} 2>&1 &", f"ready '{SERVERS[key]}' {log}"]
        else:
            lines.append(self._braced(self._replaced(command.text)))
        return "\n".join([*lines, self._filled(AFTER, command)])

    def _braced(self, text: str) -> str:
        return f"{{\n{text}\n}} || exit"

    def _filled(self, table: dict[str, str], command: Command) -> str:
        key = entry(table, command)
        return self._braced(table[key].format(**self.places)) if key else ""

    def _replaced(self, text: str) -> str:
        for old, new in REPLACED.items():
            text = text.replace(old, new.format(**self.places))
        return text

    def _parts(self, text: str) -> dict[str, str]:
        """Place -> what was printed from there on."""
        parts = {}
        for part in text.split("\n@@ ")[1:]:
            place, _, printed = part.partition("\n")
            parts[place] = printed
        return parts

    def _environment(self, block: list[Command]) -> dict[str, str]:
        own = any(command.plain.startswith(STARTS_PREFECT) for command in block)
        port = free_port()
        return {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PWD": str(self.folder),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")])),
            "CSR_TEST_MARK": str(self.folder),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api" if own else self.places["prefect"],
            "PREFECT_SERVER_API_PORT": str(port),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_RUNNER_POLL_FREQUENCY": "1",
            "MLFLOW_PORT": self.places["mlflow_port"],
            "MLFLOW_WORKERS": "1",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "CSR_JUDGE_KEY": "secret",
            "RAY_TMPDIR": self.places["short"],
            "PIP_NO_INDEX": "1",
            "PIP_DRY_RUN": "1",
            **{f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }


def first(command: Command) -> bool:
    """Whether no page and line before has the same command."""
    return command.place == next(other.place for other in commands() if other.plain == command.plain)


def run_before(command: Command) -> bool:
    return entry(dict.fromkeys(ONCE), command) is not None and not first(command)


def end_marked(folder: Path) -> None:
    """Kill what was started with this folder as its mark."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("CSR_TEST_MARK") == str(folder):
                process.kill()
                process.wait(10)
