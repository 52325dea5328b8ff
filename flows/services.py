"""`csr up` and `csr down`: Prefect server, MLflow server and a worker on this machine, on loopback only."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from csr_core.layout import Layout
from flows.processes import Service, ServiceError, Services, services

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

POOL = "gpu"
PREFECT_PORT = 4311
MLFLOW_PORT = 5000
# A worker reports to the servers, so it is stopped first.
STOP_ORDER = ("worker", "mlflow", "prefect")
# A first start makes two databases and imports MLflow: half a minute on two cores, more on a busy machine.
START_SECONDS = 180.0


def up(prefect_port: int | None = None, mlflow_port: int | None = None) -> None:
    """Start what is not up yet, in the checkout that is the working folder; returns once all of it answers.

    Raises:
        ServiceError: this is no checkout, a port is taken, or a service does not come up; what this call started is
            stopped again.
    """
    if not Path("prefect.yaml").is_file():
        raise ServiceError(f"expected prefect.yaml in {Path.cwd()}: run `csr up` in a checkout of the project")
    with services(_folder()) as local:
        api = _prefect_url(local.running.get("prefect"), prefect_port)
        page = _mlflow_url(local.running.get("mlflow"), mlflow_port)
        try:
            _start_servers(local, api, page)
            _deploy(local, api)
            _start_worker(local, api, page)
        except BaseException:
            for name in (name for name in STOP_ORDER if name in local.fresh):
                local.stop(name)
            raise
        _tell(local, api, page)


def down() -> None:
    """Stop what `csr up` started in this folder and what that started; nothing else. Nothing to stop is no error."""
    with services(_folder()) as local:
        if not local.running:
            print("nothing is up here")
        for name in (name for name in STOP_ORDER if name in local.running):
            local.stop(name)
            print(f"stopped {name}", flush=True)


def _folder() -> Path:
    return Layout().state / "services"


def _start_servers(local: Services, api: str, page: str) -> None:
    """Both at once: each takes ten seconds or more to start."""
    servers = {
        "prefect": (api, "--prefect-port", ["prefect", "server", "start"]),
        "mlflow": (page, "--mlflow-port", _mlflow_command()),
    }
    missing = {name: server for name, server in servers.items() if name not in local.running}
    # All ports before any start.
    ports = {name: _free_port(url, name, option) for name, (url, option, _) in missing.items()}
    for name, (url, _, command) in missing.items():
        print(f"starting the {name} server ...", flush=True)
        command = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(ports[name])]
        local.start(name, command, url, _environment(api))
    local.wait("prefect", lambda: answers(f"{api}/health"), START_SECONDS)
    local.wait("mlflow", lambda: answers(f"{page}/health"), START_SECONDS)


def _mlflow_command() -> list[str]:
    """On the store of a run without a server; the artifacts by file URI, so that such a run can read them too."""
    folder = Path("mlruns").resolve()
    folder.mkdir(exist_ok=True)
    command = ["mlflow", "server", "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    return [*command, "--default-artifact-root", (folder / "artifacts").as_uri()]


def _deploy(local: Services, api: str) -> None:
    """Make the work pool where it is missing, and register prefect.yaml; repeated, it takes up what has changed."""
    from prefect.exceptions import ObjectNotFound

    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    with _client(api) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            local.run("deploy", [*prefect, "work-pool", "create", POOL, "--type", "process"], _environment(api))
    print("registering the deployments of prefect.yaml ...", flush=True)
    local.run("deploy", [*prefect, "deploy", "--all"], _environment(api))


def _start_worker(local: Services, api: str, page: str) -> None:
    if "worker" in local.running:
        return
    print("starting a worker ...", flush=True)
    # A name of its own: the server lists workers that are gone as online for a while.
    name = f"{socket.gethostname()}-{os.getpid()}"
    command = ["-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", name]
    local.start("worker", [sys.executable, *command], f"{api}/work_pools/{POOL}", _environment(api, page))

    def online() -> bool:
        with _client(api) as client:
            workers = client.read_workers_for_work_pool(POOL)
        return any(worker.name == name and worker.status == "ONLINE" for worker in workers)

    local.wait("worker", online, START_SECONDS)


def _environment(api: str, page: str | None = None) -> dict[str, str]:
    """The environment of a service: where the servers are, no telemetry, none of MLflow's dozen job workers."""
    below = {"PREFECT_HOME": str(Path(".prefect").resolve()), "PREFECT_WORKER_QUERY_SECONDS": "2"}
    if page:
        below["MLFLOW_TRACKING_URI"] = page
    above = {
        "PREFECT_API_URL": api,
        # prefect.yaml names the folder of the runs by this variable, which only a shell keeps right.
        "PWD": str(Path.cwd()),
        # Where the page looks for the API: its default is the port of prefect.toml, whatever port the server has.
        "PREFECT_SERVER_UI_API_URL": api,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return {**below, **os.environ, **above}


@contextlib.contextmanager
def _client(api: str) -> Iterator[SyncPrefectClient]:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        yield client


def _prefect_url(running: Service | None, port: int | None) -> str:
    """The address of the API: as it runs, else as asked for, else as configured (prefect.toml, PREFECT_API_URL)."""
    asked = f"http://127.0.0.1:{port}/api" if port else None
    if running:
        return _unchanged("prefect", running, asked)
    if asked:
        return asked
    from prefect.settings import PREFECT_API_URL

    url = (PREFECT_API_URL.value() or f"http://127.0.0.1:{PREFECT_PORT}/api").rstrip("/")
    if urllib.parse.urlsplit(url).hostname not in ("127.0.0.1", "localhost"):
        raise ServiceError(
            f"PREFECT_API_URL names a server elsewhere ({url}), and `csr up` starts one on this machine. "
            f"For a worker of that server: prefect worker start --pool {POOL}. For a server here: unset PREFECT_API_URL"
        )
    return url


def _mlflow_url(running: Service | None, port: int | None) -> str:
    asked = f"http://127.0.0.1:{port}" if port else None
    return _unchanged("mlflow", running, asked) if running else asked or f"http://127.0.0.1:{MLFLOW_PORT}"


def _unchanged(name: str, running: Service, asked: str | None) -> str:
    if asked and asked != running.url:
        raise ServiceError(f"the {name} server is up at {running.url}, not at {asked}: `csr down` first, then `csr up`")
    return running.url


def _free_port(url: str, name: str, option: str) -> int:
    """The port in `url`, which nothing may listen on."""
    port = urllib.parse.urlsplit(url).port or 80
    with socket.socket() as probe:
        # A port whose last connections are still being closed is free to listen on.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServiceError(
                f"the {name} server wants port {port}, but {_holder(port)} has it ({error.strerror}), which `csr up` "
                f"in this folder did not start. Stop that, or choose another port: csr up {option} {port + 1}"
            ) from None
    return port


def _holder(port: int) -> str:
    import psutil

    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return "another program"


def answers(url: str) -> bool:
    """Whether a server answers there."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except (OSError, HTTPException):  # the second: what answers there is no such server
        return False


def _tell(local: Services, api: str, page: str) -> None:
    from prefect.settings import PREFECT_API_URL

    if not local.fresh:
        print("already up; the deployments are registered anew")
    print(f"Prefect server   {api.removesuffix('/api')}")
    print(f"MLflow server    {page}")
    print(f"worker           pool {POOL}, process {local.running['worker'].pid}")
    print(f"logs             {local.folder}/*.log\n")
    # Only where the configured address is another does the next command have to name it.
    address = "" if PREFECT_API_URL.value() == api else f"PREFECT_API_URL={api} "
    print(f"Start a run      {address}prefect deployment run csr/iterate --watch")
    print("Stop all this    csr down")
