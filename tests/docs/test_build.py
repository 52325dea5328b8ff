"""The site builds without a warning, asks nothing of other machines, and no link of the docs is dead."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import DOCS, ROOT, name, pages, prose

MEDIA = (".css", ".js", ".json", ".svg", ".png", ".woff", ".woff2", ".ttf", ".eot", ".ico")


class Page(HTMLParser):
    """What a page of the site holds: ids, links, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value for key, value in attrs if value}
        self.ids |= {given[key] for key in ("id", "name") if key in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "src" in given or (tag == "link" and "href" in given):
            self.loads.append(given.get("src") or given["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.fixture(scope="module")
def built(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text("utf-8")) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_in_the_site(site: Path, built: dict[Path, Page]) -> None:
    wanted = {page.relative_to(DOCS).with_suffix(".html") for page in pages() if page.is_relative_to(DOCS)}
    assert wanted <= {path.relative_to(site) for path in built}


def test_every_link_of_the_site_leads_somewhere(site: Path, built: dict[Path, Page]) -> None:
    dead = []
    for path, page in built.items():
        if path.name == "404.html":  # served from anywhere, so its links are those of a site at the root
            continue
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            anchored = not parts.fragment or target.suffix != ".html" or parts.fragment in built[target].ids
            if not target.is_file() or not anchored:
                dead.append(f"{path.relative_to(site)}: {link}")
    assert not dead


def test_lists_tables_and_code_are_shown_as_such(site: Path, built: dict[Path, Page]) -> None:
    """MkDocs wants an empty line before a list or a table where GitHub does without."""
    raw = []
    for path in built:
        text = re.sub(r"<(pre|code|script)\b.*?</\1>", "", path.read_text("utf-8"), flags=re.S)
        lines = [line for block in re.findall(r"<p>(.*?)</p>", text, re.S) for line in block.splitlines()]
        raw += [f"{path.relative_to(site)}: {line}" for line in lines if re.match(r"\s*([-*] |\d+\. |\||```)", line)]
        raw += [f"{path.relative_to(site)}: {mark}" for mark in re.findall(r".{0,40}(?:\*\*|`).{0,40}", text)]
    assert not raw


def test_the_site_loads_nothing_from_other_machines(site: Path, built: dict[Path, Page]) -> None:
    outside = {load for page in built.values() for load in page.loads if urlsplit(load).netloc}
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    outside |= set(re.findall(r"url\(['\"]?((?:https?:)?//[^)'\"]+)", styles))
    assert not outside
    assert {path.suffix for path in site.rglob("*") if path.is_file()} <= {*MEDIA, ".html", ".xml", ".gz"}


def anchors(markdown: Path) -> set[str]:
    """The anchors of its headings, by the rule that MkDocs and GitHub share for plain headings."""
    found: dict[str, int] = {}
    out = set()
    for heading in re.findall(r"^#{1,6} (.+)$", prose(markdown), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        slug = re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", plain)).strip("-")
        out.add(slug if slug not in found else f"{slug}_{found[slug]}")
        found[slug] = found.get(slug, 0) + 1
    return out


@pytest.mark.parametrize("page", pages(), ids=name)
def test_every_link_of_a_page_as_it_lies_in_the_repository_leads_somewhere(page: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.exists() or (parts.fragment and target.suffix == ".md" and parts.fragment not in anchors(target)):
            dead.append(link)
    assert not dead


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a](no-such-page.md)", "no-such-page.md"),
        ("[a](../no/such/file.py)", "no/such/file.py"),
        ("[a](data.md#no-such-heading)", "no-such-heading"),
    ],
)
def test_a_dead_link_ends_the_build(tmp_path: Path, text: str, complaint: str) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "index.md").write_text(
        f"# A\n\n{text}, and [a file](../params.yaml) that the site does not hold.\n", "utf-8"
    )
    (docs / "data.md").write_text("# B\n", "utf-8")
    (docs / "hooks.py").write_text((DOCS / "hooks.py").read_text("utf-8"), "utf-8")
    (tmp_path / "params.yaml").touch()
    settings = (ROOT / "mkdocs.yml").read_text("utf-8")
    start = settings.index("nav:\n  - Home")
    (tmp_path / "mkdocs.yml").write_text(settings[:start] + "nav: [index.md, data.md]\n", "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "params.yaml" not in done.stderr


def test_every_record_is_in_the_list_of_decisions() -> None:
    listed = (DOCS / "decisions" / "index.md").read_text("utf-8")
    records = [page.name for page in (DOCS / "decisions").glob("2*.md")]
    assert [record for record in records if f"]({record})" not in listed] == []
