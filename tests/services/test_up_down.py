"""`csr up` and `csr down` with the real servers, in a small checkout of its own."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from flows.processes import Service, Services
from tests.e2e.conftest import csr
from tests.services.ports import free_port

ROOT = Path(__file__).parents[2]
CONFIGURED = ("prefect.yaml", "prefect.toml", "params.yaml")
# A flow as `csr` is one: its work is done by a process in a session of its own.
NAP = """
import subprocess
from pathlib import Path
from prefect import flow

@flow(name="nap", persist_result=False)
def nap() -> None:
    worker = subprocess.Popen(["sleep", "120"], start_new_session=True)
    Path("nap.pid").write_text(str(worker.pid))
    worker.wait()
"""
NAP_DEPLOYMENT = """
  - name: nap
    entrypoint: flows/nap.py:nap
    work_pool: {name: gpu}
"""


def checkout(folder: Path) -> Path:
    """As much of the project as `csr up` reads."""
    folder.mkdir()
    for name in CONFIGURED:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "flows", folder / "flows", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "flows" / "nap.py").write_text(NAP)
    (folder / "prefect.yaml").write_text((folder / "prefect.yaml").read_text().rstrip() + NAP_DEPLOYMENT)
    return folder


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read())


def post(url: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


def listens_on(port: int) -> set[str]:
    """The addresses on which something listens at `port`."""
    found = psutil.net_connections("inet")
    return {link.laddr.ip for link in found if link.status == psutil.CONN_LISTEN and link.laddr.port == port}


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, ports: tuple[int, int]) -> Iterator[tuple[Path, str]]:
    """A folder in which `csr up` has returned, and what it said."""
    folder = checkout(tmp_path_factory.mktemp("up") / "checkout")
    said = csr(folder, "up", "--prefect-port", str(ports[0]), "--mlflow-port", str(ports[1])).stdout
    yield folder, said
    csr(folder, "down", check=False)


def test_everything_answers_on_loopback_only(up: tuple[Path, str], ports: tuple[int, int]) -> None:
    _, said = up
    api = f"http://127.0.0.1:{ports[0]}/api"
    assert get(f"{api}/health") is True
    assert get(f"{api}/work_pools/gpu")["type"] == "process"
    assert get(f"{api}/deployments/name/csr/iterate")["work_pool_name"] == "gpu"
    workers = post(f"{api}/work_pools/gpu/workers/filter", {})
    assert [worker["status"] for worker in workers] == ["ONLINE"]
    assert urllib.request.urlopen(f"http://127.0.0.1:{ports[1]}/health", timeout=10).read() == b"OK"
    assert listens_on(ports[0]) == listens_on(ports[1]) == {"127.0.0.1"}
    # The port is not the one of prefect.toml, so that the next command must be told it.
    assert f"PREFECT_API_URL={api} prefect deployment run csr/iterate --watch" in said


def test_the_server_shows_what_a_run_without_it_wrote(up: tuple[Path, str], ports: tuple[int, int]) -> None:
    """The store is the one of a direct client, artifacts included, both ways."""
    folder, _ = up
    direct = mlflow.MlflowClient(f"sqlite:///{folder / 'mlruns' / 'mlflow.db'}")
    server = mlflow.MlflowClient(f"http://127.0.0.1:{ports[1]}")
    for writer, reader in ((direct, server), (server, direct)):
        name = f"by {'server' if writer is server else 'direct client'}"
        experiment = server.create_experiment(name)
        run = writer.create_run(experiment).info.run_id
        writer.log_text(run, "seen", "note.txt")
        assert reader.get_run(run).info.artifact_uri.startswith((folder / "mlruns" / "artifacts").as_uri())
        assert [item.path for item in reader.list_artifacts(run)] == ["note.txt"]


def test_up_again_starts_nothing(up: tuple[Path, str]) -> None:
    folder, _ = up
    record = folder / ".csr" / "services" / "services.json"
    before = record.read_text()
    assert "already up" in csr(folder, "up").stdout
    assert record.read_text() == before
    done = csr(folder, "up", "--mlflow-port", str(free_port()), check=False)
    assert done.returncode == 2
    assert "csr down" in done.stderr


def test_down_stops_what_up_started_and_nothing_else(up: tuple[Path, str], ports: tuple[int, int]) -> None:
    folder, _ = up
    api = f"http://127.0.0.1:{ports[0]}/api"
    deployment = get(f"{api}/deployments/name/nap/nap")["id"]
    post(f"{api}/deployments/{deployment}/create_flow_run", {"state": {"type": "SCHEDULED"}})
    until = time.monotonic() + 60
    while not (folder / "nap.pid").is_file() and time.monotonic() < until:
        time.sleep(0.2)
    napping = psutil.Process(int((folder / "nap.pid").read_text()))
    local = Services(folder / ".csr" / "services")
    family = [
        member
        for service in local.running.values()
        for member in (psutil.Process(service.pid), *psutil.Process(service.pid).children(recursive=True))
    ]
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], cwd=folder)
    try:
        assert set(local.running) == {"prefect", "mlflow", "worker"}
        assert napping in family
        said = csr(folder, "down").stdout
        assert said.splitlines() == ["stopped worker", "stopped mlflow", "stopped prefect"]
        assert [member for member in family if member.is_running() and member.status() != psutil.STATUS_ZOMBIE] == []
        assert listens_on(ports[0]) == listens_on(ports[1]) == set()
        assert bystander.poll() is None
        assert "nothing is up" in csr(folder, "down").stdout
    finally:
        bystander.kill()
        bystander.wait()


def test_a_process_that_took_over_a_number_is_left_alone(tmp_path: Path) -> None:
    """After a reboot the numbers written down belong to others."""
    folder = checkout(tmp_path / "checkout")
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        began = psutil.Process(bystander.pid).create_time()
        assert Service(bystander.pid, began, "").process() is not None
        record = folder / ".csr" / "services" / "services.json"
        record.parent.mkdir(parents=True)
        record.write_text(json.dumps({"worker": {"pid": bystander.pid, "created": began - 3600, "url": ""}}))
        assert "nothing is up" in csr(folder, "down").stdout
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


@pytest.mark.parametrize("option", ["--prefect-port", "--mlflow-port"])
def test_a_taken_port_is_named_with_the_way_out(tmp_path: Path, option: str) -> None:
    folder = checkout(tmp_path / "checkout")
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        other = "--mlflow-port" if option == "--prefect-port" else "--prefect-port"
        done = csr(folder, "up", option, str(port), other, str(free_port()), check=False)
    assert done.returncode == 2
    assert f"wants port {port}" in done.stderr
    assert option in done.stderr
    assert Services(folder / ".csr" / "services").running == {}


def test_up_outside_a_checkout_says_so(tmp_path: Path) -> None:
    done = csr(tmp_path, "up", check=False)
    assert done.returncode == 2
    assert "prefect.yaml" in done.stderr
