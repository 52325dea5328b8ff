"""The report of a made-up run in a real browser: small, quick, readable by all, and asking nobody for anything.

The bounds of time are the promise made to readers (first paint within a second, twelve thousand prompts within three),
several times what is measured.
"""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from csr_core.layout import Layout
from csr_core.report import write_report
from tests.browser.opened import (
    SIZES,
    filter_trees,
    first_paint,
    opened,
    ready,
    serious_problems,
    walk_by_keyboard,
    within,
)
from tests.report.made_up import write_iteration, write_metrics, write_pictures

PROMPTS = 12_000


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three iterations of twelve thousand prompts, with pictures as hard to compress as photographs are."""
    layout = Layout(tmp_path_factory.mktemp("large"))
    write_metrics(layout, 3)
    pictures = write_pictures(layout.root / "pictures", 400, side=480)
    for k in (1, 2, 3):
        write_iteration(layout, k, PROMPTS, pictures)
    write_report(layout, layout.root / "report.html")
    return layout.root / "report.html"


@pytest.mark.parametrize("size", SIZES)
def test_twelve_thousand_prompts_open_at_once_and_are_sampled(
    chromium: str, report: Path, size: str, tmp_path: Path
) -> None:
    assert report.stat().st_size < 5_000_000
    with opened(chromium, report, size, tmp_path / "log.json") as found:
        assert within(found.page, 1, first_paint)
        assert within(found.page, 3, ready)
        shown = found.page.locator("#tree-list [role=option]").count()
        assert 20 < shown <= 60  # as many as there is room for
        told = found.page.locator("#trees > p").first
        expect(told).to_contain_text(f"{shown} of the 12,000 prompts of iteration 1")
        expect(told).to_contain_text("They are a sample")
        counted = f"{shown} of {shown} trees, a sample of 12,000 prompts"
        expect(found.page.locator("#tree-count")).to_have_text(counted)


@pytest.mark.parametrize("size", SIZES)
def test_it_is_walked_by_keyboard_and_filtered(chromium: str, report: Path, size: str, tmp_path: Path) -> None:
    with opened(chromium, report, size, tmp_path / "log.json") as found:
        walk_by_keyboard(found.page)
        filter_trees(found.page, "fork", "hippopotamus")


@pytest.mark.parametrize("size", SIZES)
def test_nothing_serious_is_found_by_axe(chromium: str, report: Path, size: str, tmp_path: Path) -> None:
    with opened(chromium, report, size, tmp_path / "log.json") as found:
        assert serious_problems(found.page) == []
        found.page.get_by_role("treeitem").first.click()  # with a sentence's numbers open
        found.page.locator("#tree-search").fill("dog")
        assert serious_problems(found.page) == []


@pytest.mark.parametrize("size", SIZES)
def test_the_page_is_no_wider_than_the_screen(chromium: str, report: Path, size: str, tmp_path: Path) -> None:
    with opened(chromium, report, size, tmp_path / "log.json") as found:
        assert found.page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
        for table in found.page.locator("table:visible").all():  # its first figures are in sight
            box = table.locator("tbody tr").first.locator("td").first.bounding_box()
            assert box is not None
            assert box["x"] < SIZES[size][0] / 2


def test_signs_and_colours_tell_what_became_of_a_sentence(chromium: str, report: Path, tmp_path: Path) -> None:
    """The made-up tree: 1 (grown) -> 3 (final), 4 (dropped); 2 (grown) -> 5 (final)."""
    with opened(chromium, report, "desk", tmp_path / "log.json") as found:
        rows = found.page.locator("#tree .row")
        kinds = [str(name).split()[1] for name in rows.evaluate_all("rows => rows.map(row => row.className)")]
        assert kinds == ["grown", "final", "dropped", "grown", "final"]
        label = found.page.get_by_role("treeitem").nth(2).get_attribute("aria-label") or ""
        assert label.endswith("; dropped")
        found.page.get_by_role("treeitem").nth(2).click()
        expect(found.page.locator(".numbers")).to_contain_text("odd symbols")
        found.page.locator("#tree-dropped").uncheck()
        expect(rows).to_have_count(4)
        found.page.locator("#tree-paths").check()
        expect(rows).to_have_count(4)
        assert found.page.locator("#tree-map .edge.chosen").count() == 2
        before = rows.first.locator(".chip").inner_text()
        found.page.get_by_label("likelihood").check()
        assert rows.first.locator(".chip").inner_text() != before


def test_a_link_opens_its_tree(chromium: str, report: Path, tmp_path: Path) -> None:
    with opened(chromium, report, "desk", tmp_path / "log.json") as found:
        found.page.locator("#tree-iteration").select_option(label="2")
        found.page.locator("#tree-list [role=option]").nth(3).click()
        prompt, link = found.page.locator("#tree-prompt").inner_text(), found.page.url
        assert "#tree=2/" in link
        found.page.goto("about:blank")
        found.page.goto(link)
        expect(found.page.locator("#tree-prompt")).to_have_text(prompt)


def test_text_of_a_model_is_never_markup(chromium: str, tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_metrics(layout, 1)
    pictures = write_pictures(tmp_path / "pictures", 3)
    write_iteration(layout, 1, 4, pictures)
    prompts = layout.prompts(1) / "prompts.parquet"
    import pyarrow.parquet as pq

    from csr_core.records import PROMPTS as SCHEMA
    from csr_core.records import write_table

    evil = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    write_table(prompts, [{**row, "prompt": evil} for row in pq.read_table(prompts).to_pylist()], SCHEMA)
    write_report(layout, tmp_path / "report.html")
    with opened(chromium, tmp_path / "report.html", "desk", tmp_path / "log.json") as found:
        expect(found.page.locator("#tree-prompt")).to_have_text(evil)
        assert found.page.title() != "owned"
