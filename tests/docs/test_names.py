"""What the docs name is there: settings, and files of the repository. (Commands are run by another test.)"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from csr_core.params import flatten, load_settings, values_of
from tests.docs.pages import DOCS, ROOT, name, pages, prose

# Records say what was at their time.
LIVING = [page for page in pages() if (DOCS / "decisions") not in page.parents]
_READ = load_settings(ROOT / "params.yaml")
SETTINGS = {*flatten(_READ), *values_of(_READ)}
SECTIONS = sorted({key.split(".")[0] for key in SETTINGS if "." in key})
TOPS = ("csr_core", "flows", "tasks", "tests", "benchmarks", "presets", "docker", "docs")


@pytest.mark.parametrize("page", LIVING, ids=name)
def test_settings_that_a_page_names_are_there(page: Path) -> None:
    found = re.findall(rf"[`\s(]((?:{'|'.join(SECTIONS)})\.[a-z_]+(?:\.[a-z_]+)*)(?=[`\s:=,)])", prose(page))
    files = {".json", ".jsonl", ".md", ".py", ".yaml", ".png"}
    wrong = {
        key
        for key in found
        if key not in SETTINGS
        and not any(own.startswith(f"{key}.") for own in SETTINGS)
        and Path(key).suffix not in files
    }
    assert not wrong


@pytest.mark.parametrize("page", LIVING, ids=name)
def test_files_of_the_repository_that_a_page_names_are_there(page: Path) -> None:
    found = re.findall(rf"`((?:{'|'.join(TOPS)})/[\w./*-]+)`", page.read_text("utf-8"))
    made = {"docker/.env", "benchmarks/latest.json", "benchmarks/orchestration.json"}
    missing = {path for path in found if "STAGE" not in path and path not in made and not list(ROOT.glob(path))}
    assert not missing


@pytest.mark.parametrize("page", LIVING, ids=name)
def test_changes_of_settings_that_a_page_proposes_are_valid(page: Path) -> None:
    text = page.read_text("utf-8")
    changes = re.findall(rf"`((?:preset|(?:{'|'.join(SECTIONS)})\.[a-z_]+)=[^`]+)`", text)
    changes += re.findall(r"--set ([a-z_.]+=[^\s'\"`]+)", text)
    for change in changes:
        if "..." not in change and "…" not in change and not change.startswith("section.key"):
            load_settings(ROOT / "params.yaml", [change])
