"""A finished run on the pages of a real Prefect server and a real MLflow server, and a browser to look at them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import Page, sync_playwright

from flows.processes import end_family
from flows.services import answers
from tests.e2e.conftest import SMALL, csr, sets
from tests.services.ports import free_port

SCREENSHOTS = os.environ.get("CSR_SCREENSHOTS")  # a folder: the tests then save what they see
ITERATIONS = 3 if SCREENSHOTS else 2
# Pictures for the documentation want more data than tests do. Both make three shards of prompts.
LARGER = [
    "data.per_iteration=100",
    "generate.shard_size=40",
    "evaluate.splits.test.count=100",
    "evaluate.splits.shifted.count=60",
]
# So few pictures may well stop at an iteration by a guard; here all iterations are wanted.
SETTINGS = [*(LARGER if SCREENSHOTS else SMALL), f"iterations={ITERATIONS}", "guards.stop_on=[]"]
SHARDS = 3

BROWSER = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
    # Nothing leaves this machine, whatever a page asks for.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip


@dataclass(frozen=True)
class Site:
    """A folder in which `csr run` has ended, and the addresses of the pages that show the run."""

    folder: Path
    prefect: str
    mlflow: str


@pytest.fixture(scope="session")
def site(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    prefect, mlflow = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    environment = {
        "PREFECT_HOME": str(folder / ".prefect"),
        "PREFECT_API_URL": f"{prefect}/api",
        "PREFECT_SERVER_UI_API_URL": f"{prefect}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    store = ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}"]
    with ExitStack() as servers:
        with pytest.MonkeyPatch.context() as patch:  # not for the tests of other files, which come while these serve
            for name, value in environment.items():
                patch.setenv(name, value)
            servers.enter_context(served(folder, ["prefect", "server", "start"], prefect, "/api/health"))
            csr(folder, "init", "--preset", "steady")
            csr(folder, "run", *sets(SETTINGS))
            servers.enter_context(served(folder, ["mlflow", "server", *store], mlflow, "/health"))
        yield Site(folder, prefect, mlflow)


@contextmanager
def served(folder: Path, command: list[str], url: str, health: str, seconds: float = 180.0) -> Iterator[None]:
    """A server that answers while the block runs; it is ended with all below it."""
    log = folder / f"{command[0]}.log"
    where = ["--host", "127.0.0.1", "--port", str(urlsplit(url).port)]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, *where],
            cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        until = time.monotonic() + seconds
        while not answers(url + health):
            assert server.poll() is None, f"{command[0]} ended as it started:\n{log.read_text()}"
            assert time.monotonic() < until, f"{command[0]} does not answer:\n{log.read_text()}"
            time.sleep(0.3)
        yield
    finally:
        end_family(psutil.Process(server.pid))
        server.wait()


@pytest.fixture
def page(chromium: str, tmp_path: Path) -> Iterator[Page]:
    """An empty page of a new browser. What is opened on it must ask nothing of any other machine."""
    log = tmp_path / "network.json"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[*BROWSER, f"--log-net-log={log}"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()
    assert hosts_asked(log) == {"127.0.0.1"}


def hosts_asked(log: Path) -> set[str]:
    """The hosts that pages and their workers sent requests to, or wanted to, from Chromium's log of its network.

    Playwright's own events leave out shared workers, which MLflow's page has one of for telemetry.
    """
    record = json.loads(log.read_text())
    request = record["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    started = [
        event["params"] for event in record["events"] if event["type"] == request and "url" in event.get("params", {})
    ]
    # "not an origin": by the browser itself, such as the look for its updates.
    asked = {urlsplit(row["url"]).hostname for row in started if row.get("initiator") != "not an origin"}
    return {host for host in asked if host is not None}


@pytest.fixture
def shoot(page: Page) -> Callable[[str], None]:
    """Saves what the page shows as NAME.png, where pictures are wanted."""

    def save(name: str) -> None:
        if SCREENSHOTS:
            Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
            page.wait_for_timeout(3000)  # until the pages' animations have ended
            page.screenshot(path=Path(SCREENSHOTS) / f"{name}.png")

    return save
