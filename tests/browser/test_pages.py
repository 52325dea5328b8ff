"""What a user sees of a run on MLflow's page and on Prefect's: iterations compared, curves, stages, pictures."""

import contextlib
import io
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, TimeoutError, expect

from csr_core.layout import Layout
from csr_core.records import PREFERENCES, read_json, read_table
from csr_core.report import figure
from tests.browser.conftest import ITERATIONS, SHARDS, Site
from tests.browser.opened import SIZES, filter_trees, first_paint, opened, serious_problems, walk_by_keyboard, within

expect.set_options(timeout=60_000)
RUN = "csr steady seed 0"
Shoot = Callable[[str], None]


def values(site: Site, name: str, split: str = "test") -> list[float]:
    """A figure of the base and of each iteration."""
    return [read_json(Layout(site.folder).metrics(k))[split][name]["value"] for k in range(ITERATIONS + 1)]


def open_runs(page: Page, site: Site) -> None:
    """MLflow's list of the experiment's runs, the iterations below the run shown."""
    page.goto(f"{site.mlflow}/#/experiments")
    # Under "GenAI", where the page begins, an experiment opens with its traces: there are none.
    page.get_by_role("button", name="Model training").click()
    page.get_by_role("button", name="Close", exact=True).click()  # the assistant's column
    page.get_by_role("link", name="csr", exact=True).click()
    unfold(page, RUN)


def unfold(page: Page, name: str) -> None:
    row_of(page, name).get_by_role("button").first.click()


def row_of(page: Page, name: str) -> Locator:
    # A row is in two halves, one for each of the list's parts; the first has the name.
    link = page.get_by_role("link", name=name, exact=True)
    return page.get_by_role("row").filter(has=link).first


def curves(page: Page, *sizes: int, seconds: float = 60.0) -> list[list[float]]:
    """Curves of so many points in the only chart of the page: the heights of the points in pixels, upwards."""
    expect(page.locator(".js-plotly-plot")).to_have_count(1)

    def drawn() -> list[list[float]]:
        paths = page.locator(".scatterlayer path.js-line").evaluate_all("lines => lines.map(l => l.getAttribute('d'))")
        # Each is there twice: once more for where the mouse is.
        lines = [[-float(y) for y in re.findall(r"[ML][-\d.]+,([-\d.]+)", path)] for path in set(paths)]
        return sorted((line for line in lines if len(line) > 1), key=len)

    wait_until(page, lambda: [len(line) for line in drawn()] == sorted(sizes), f"no curves of {sizes} points", seconds)
    return drawn()


def wait_until(page: Page, condition: Callable[[], bool], otherwise: str, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, otherwise
        page.wait_for_timeout(300)


def scaled(numbers: Sequence[float]) -> list[float]:
    low, high = min(numbers), max(numbers)
    return [(number - low) / (high - low or 1.0) for number in numbers]


def test_two_iterations_are_compared_by_mlflow(page: Page, site: Site, shoot: Shoot) -> None:
    open_runs(page, site)
    compare(page, "iteration 1", "iteration 2")
    shown = compared(page, "test/chair_i")
    assert [float(text) for text in shown] == pytest.approx(values(site, "chair_i")[1:3], abs=0.0006)
    shoot("mlflow-compared")


def compare(page: Page, *names: str) -> None:
    """Mark runs in the list, and compare them."""
    for name in names:
        row_of(page, name).get_by_role("checkbox").check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text(f"Comparing {len(names)} Runs from 1 Experiment")).to_be_visible()


def open_metric(page: Page, name: str) -> None:
    """Follow a metric's name in the comparison to its chart."""
    for _ in range(10):  # the table draws itself anew as figures come in, and a click on what was there is lost
        with contextlib.suppress(AssertionError, TimeoutError):
            page.get_by_role("link", name=name, exact=True).click(timeout=20_000)
            expect(page).to_have_url(re.compile("/metric"), timeout=6_000)
            return
    raise AssertionError(f"the chart of {name} did not open: {page.url}")


def compared(page: Page, metric: str) -> list[str]:
    """What the table of the comparison has beside the name of a metric."""
    name = page.get_by_text(metric, exact=True)
    first = page.get_by_text("preferences/pairs", exact=True).last
    first.scroll_into_view_if_needed()
    box = first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 500, box["y"] + 5)  # the column of names does not take the wheel
    for _ in range(60):  # only the rows in sight are there
        with contextlib.suppress(AssertionError):
            expect(name).to_be_in_viewport(timeout=200)
            break
        page.mouse.wheel(0, 200)
        page.wait_for_timeout(150)
        page.mouse.wheel(0, 1)  # the names follow the values one event late
    beside: list[str] = name.evaluate(
        """name => {
            const middle = element => { const box = element.getBoundingClientRect(); return (box.top + box.bottom) / 2 }
            let table = name  // the names are one grid, the values another
            while (table.querySelectorAll('[role=grid]').length < 2) table = table.parentElement
            return [...table.querySelectorAll('*')]
                .filter(cell => !cell.children.length && cell.textContent && Math.abs(middle(cell) - middle(name)) < 6)
                .map(cell => cell.textContent)
        }"""
    )
    return beside


def test_mlflow_draws_a_benchmark_by_iteration(page: Page, site: Site, shoot: Shoot) -> None:
    open_runs(page, site)
    page.locator("label").filter(has=page.locator("input[value=CHART]")).click()  # a button without a name
    charts = page.get_by_placeholder("Search metric charts")
    charts.fill("^test/chair_i$")
    # The CSR run's; its iterations are points on it.
    (curve,) = curves(page, ITERATIONS + 1)
    assert scaled(curve) == pytest.approx(scaled(values(site, "chair_i")), abs=0.02)
    charts.fill("test/(chair_i|chair_s|recall|words|repeats|pope_accuracy)$")
    expect(page.locator(".js-plotly-plot")).to_have_count(6)
    shoot("mlflow")


def test_mlflow_draws_the_training_of_two_iterations_in_one_chart(page: Page, site: Site, shoot: Shoot) -> None:
    open_runs(page, site)
    for k in (1, 2):
        unfold(page, f"iteration {k}")
        expect(row_of(page, f"finetune@{k}")).to_be_visible()
    compare(page, "finetune@1", "finetune@2")
    open_metric(page, "loss")
    logs = [(Layout(site.folder).model(k) / "training.jsonl").read_text("utf-8").splitlines() for k in (1, 2)]
    steps = [sum("loss" in json.loads(row) for row in log) for log in logs]
    assert min(steps) > 1
    for _ in range(5):  # on a busy machine the page was seen to draw one curve and never ask again
        with contextlib.suppress(AssertionError):
            curves(page, *steps, seconds=20)
            return
        page.reload()
    curves(page, *steps)
    shoot("mlflow-training")


def test_mlflow_shows_the_pictures_of_a_run(page: Page, site: Site) -> None:
    open_runs(page, site)
    page.get_by_role("link", name=RUN, exact=True).click()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("figures", exact=True).click()
    page.get_by_text("pairs_iter_1.png", exact=True).click()
    expect(page.get_by_role("img", name="pairs_iter_1.png")).to_be_visible()


def open_flow_run(page: Page, site: Site, tab: str) -> None:
    page.goto(f"{site.prefect}/runs")
    page.locator("a[href*='/flow-run/']").first.click()
    page.get_by_role("tablist").get_by_text(tab, exact=True).click()


def test_prefect_shows_the_stages_of_a_run(page: Page, site: Site, shoot: Shoot) -> None:
    open_flow_run(page, site, "Task Runs")
    expect(page.get_by_text("Completed", exact=True).first).to_be_visible()
    for name in ("prepare@0", "generate@1", f"generate@1 shard 0 of {SHARDS}", f"evaluate@{ITERATIONS}"):
        expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
    timeline = page.locator("canvas").first
    expect(timeline).to_be_visible()
    wait_until(page, lambda: greens(timeline.screenshot()) > 500, "the timeline shows no completed task")
    shoot("prefect")


def greens(png: bytes) -> int:
    """How many pixels have the colour of what is completed."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    return int(((green > 130) & (green > 1.5 * np.maximum(red, blue))).sum())


def test_prefect_lists_and_renders_the_artifacts(page: Page, site: Site, shoot: Shoot) -> None:
    open_flow_run(page, site, "Artifacts")
    stages = ["prepare", "generate", "score", "pair", "finetune", "evaluate"]
    for key in ["csr-metrics", "csr-pairs-1", "csr-records-1", *(f"{stage}-1" for stage in stages)]:
        expect(page.get_by_text(key, exact=True).first).to_be_visible()
    shoot("prefect-artifacts")
    page.goto(f"{site.prefect}/artifacts/key/csr-metrics")
    page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()  # the newest
    table = page.get_by_role("table").first
    row = table.get_by_role("row").filter(has_text=f"iteration {ITERATIONS}")
    expect(row).to_contain_text(
        figure(read_json(Layout(site.folder).metrics(ITERATIONS))["test"]["chair_i"], "chair_i")
    )
    curves = page.locator("img[src^='data:image/png']").first
    expect(curves).to_be_visible()
    assert curves.evaluate("picture => picture.naturalWidth") > 300
    shoot("prefect-metrics")


def test_prefect_renders_pairs_with_their_pictures(page: Page, site: Site, shoot: Shoot) -> None:
    page.goto(f"{site.prefect}/artifacts/key/csr-pairs-1")
    page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()
    pairs = read_table(Layout(site.folder).preferences(1), PREFERENCES)
    clearest = max(pairs, key=lambda pair: pair["margin"])
    expect(page.get_by_text(clearest["chosen"][0]["content"].strip()).first).to_be_visible()
    pictures = page.locator("img[src^='data:image/']")
    expect(pictures).to_have_count(min(5, len(pairs)))
    widths = pictures.evaluate_all("pictures => pictures.map(picture => picture.naturalWidth)")
    assert min(widths) > 50, widths
    shoot("prefect-pairs")


@pytest.mark.parametrize("size", SIZES)
def test_the_report_of_a_run_is_walked_filtered_and_open_to_all(
    chromium: str, site: Site, size: str, tmp_path: Path
) -> None:
    report = Layout(site.folder).report
    assert report.stat().st_size < 5_000_000
    with opened(chromium, report, size, tmp_path / "log.json") as found:
        assert within(found.page, 1, first_paint)
        shown = f"{values(site, 'chair_i')[-1] * 100:.1f}"
        expect(found.page.locator(".cards")).to_contain_text(shown)
        walk_by_keyboard(found.page)
        filter_trees(found.page, "there is", "hippopotamus")
        assert serious_problems(found.page) == []


def test_mlflow_shows_the_report_with_its_trees(page: Page, site: Site, shoot: Shoot) -> None:
    open_runs(page, site)
    row_of(page, RUN).get_by_role("link", name=RUN, exact=True).click()
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("report.html", exact=True).click()
    frame = page.frame_locator("iframe")
    expect(frame.get_by_role("heading", name="Sentence trees")).to_be_visible()
    expect(frame.get_by_role("treeitem").first).to_be_attached()
    frame.get_by_role("heading", name="Sentence trees").scroll_into_view_if_needed()
    shoot("mlflow-report")
