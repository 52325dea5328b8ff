"""One finished run for the pages' commands, and servers here that stand for those elsewhere."""

import shutil
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from filelock import FileLock

from tests.browser.conftest import served
from tests.docs.commands import PROJECT
from tests.docs.reader import Reader, copied, finished_run
from tests.evaluation.benchmarks.endpoint import endpoint
from tests.evaluation.benchmarks.standin import environment
from tests.services.ports import free_port
from tests.test_hub import Hub


@pytest.fixture(scope="session")
def finished_folder(places: dict[str, str], tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A finished run; made once, also where several processes test."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    folder = shared / "finished-run"
    with FileLock(shared / "finished-run.lock"):
        if not (shared / "finished-run.done").exists():
            folder.mkdir()
            finished_run(folder, places["prefect"])
            (shared / "finished-run.done").touch()
    return folder


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What stands in REPLACED and BEFORE: a Prefect server, a judge, the hub, an environment of lmms-eval."""
    folder = tmp_path_factory.mktemp("places")
    shutil.copy(PROJECT / "prefect.toml", folder)
    prefect = f"http://127.0.0.1:{free_port()}"
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Hub.seen = []
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    with (
        served(folder, ["prefect", "server", "start"], prefect, "/api/health"),
        endpoint(lambda body: "0.5") as judge,
        TemporaryDirectory(prefix="ray-") as short,  # Ray's sockets have a path, which must be short
    ):
        yield {
            "prefect": f"{prefect}/api",
            "judge": judge.url,
            "hub": f"http://127.0.0.1:{hub.server_port}",
            "lmms_python": str(environment(folder)),
            "short": short,
        }
    hub.shutdown()


@pytest.fixture
def reader(finished_folder: Path, places: dict[str, str], tmp_path: Path) -> Iterator[Reader]:
    """Somebody who goes through a page in a new copy of the finished run."""
    folder = tmp_path / "checkout"
    copied(finished_folder, folder)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    yield Reader(folder, {**places, "mlflow_port": str(free_port()), "elsewhere": str(elsewhere)})
    shutil.rmtree(tmp_path)
