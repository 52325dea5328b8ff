"""The commands that the containers run, as they are, against a Postgres of this machine."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.services.ports import free_port

DOCKER = Path(__file__).parents[2] / "docker"
# Every character that a URL would need escaped, and some that a shell would.
PASSWORD = "p@ss/w:rd %1&$x"
AUTH = "csr:s3cret"


def postgres_programs() -> Path:
    """The folder of `initdb` and `postgres`; skips where there is none. Debian keeps them outside PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    folders = [folder for folder in folders if (folder / "initdb").is_file() and (folder / "postgres").is_file()]
    if not folders:
        pytest.skip("no Postgres server on this machine (Debian: apt-get install postgresql)")
    pytest.importorskip("psycopg2", reason="MLflow's Postgres driver is missing: pip install psycopg2-binary")
    return folders[-1]


def unprivileged() -> dict[str, Any]:
    """What makes subprocess run a command as another user than root, whom Postgres refuses."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}


@dataclass
class Servers:
    """Processes under test: started with the environment of a container, ended with all below them."""

    folder: Path
    environment: dict[str, str]

    @contextlib.contextmanager
    def started(
        self,
        name: str,
        command: Sequence[str],
        url: str | None,
        changes: Mapping[str, str],
        account: Mapping[str, Any] | None = None,
    ) -> Iterator[str]:
        """Runs `command` until the block ends; the block begins when `url` answers. Gives the name of the log."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as file:
            environment = {**self.environment, **changes}
            process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=file, stderr=file, **(account or {})
            )
        try:
            if url:
                wait_for(url, process, log)
            yield log.name
        finally:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            stop(process)
            assert psutil.wait_procs(family, timeout=20)[1] == [], "children outlive the server"

    def run(self, command: Sequence[str], changes: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            command, cwd=self.folder, env={**self.environment, **(changes or {})}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


def stop(process: subprocess.Popen[bytes]) -> None:
    """As `docker stop` does with compose.yaml's grace: Prefect's worker was seen to lose a signal while it connects."""
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 90
    while status(url) != 200:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.2)


def status(url: str, headers: Mapping[str, str] | None = None) -> int | None:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers or {})), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """A new Postgres with the databases of compose.yaml, and the environment that compose.yaml gives its clients."""
    programs = postgres_programs()
    port = free_port()
    # Not below pytest's folder, which another user cannot enter; and short, as the path of a socket must be.
    with tempfile.TemporaryDirectory(prefix="csr-pg-") as name:
        folder = Path(name)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
            shutil.chown(secret, "postgres")
        initdb = [str(programs / "initdb"), "--pgdata", f"{name}/data", "--username=csr", f"--pwfile={secret}"]
        initdb += ["--auth=scram-sha-256", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **unprivileged())
        postgres = [str(programs / "postgres"), "-D", f"{name}/data", "-p", str(port), "-k", name]
        postgres += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        client = {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "csr", "PGPASSWORD": PASSWORD}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "MLFLOW_", "PG"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        started = Servers(folder, {**kept, **client, "PATH": path, "PREFECT_HOME": f"{name}/prefect"})
        with started.started("postgres", postgres, None, {}, unprivileged()):
            ready = [str(programs / "pg_isready"), "--quiet", "--timeout=30"]
            until = time.monotonic() + 30
            while subprocess.run(ready, env=started.environment).returncode != 0:
                assert time.monotonic() < until, (folder / "postgres.log").read_text()
                time.sleep(0.1)
            psql = [str(programs / "psql"), "--dbname=postgres", "--set=ON_ERROR_STOP=1"]
            started.run([*psql, f"--file={DOCKER / 'create-databases.sql'}"])
            yield started


def test_prefect_on_postgres_with_a_worker(servers: Servers) -> None:
    """The server asks for the password, keeps its state in Postgres, and a worker of the pool stays healthy."""
    port, worker_port = free_port(), free_port()
    api = f"http://127.0.0.1:{port}/api"
    client = {"PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": AUTH, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    (servers.folder / "prefect.yaml").write_text(
        "name: test\ndeployments:\n  - {name: nothing, entrypoint: 'nothing.py:nothing', work_pool: {name: gpu}}\n"
    )
    (servers.folder / "nothing.py").write_text("from prefect import flow\n\n@flow\ndef nothing():\n    pass\n")
    settings = {"PREFECT_SERVER_API_PORT": str(port), "PREFECT_SERVER_API_AUTH_STRING": AUTH}
    with servers.started("prefect", [str(DOCKER / "start-prefect.sh")], f"{api}/health", settings) as log:
        assert status(f"{api}/deployments/name/nothing/nothing") == 401
        servers.run([str(DOCKER / "deploy.sh")], client)
        health = f"http://127.0.0.1:{worker_port}/health"
        settings = {**client, "PREFECT_WORKER_WEBSERVER_PORT": str(worker_port)}
        with servers.started("worker", [str(DOCKER / "start-worker.sh")], health, settings):
            servers.run([str(DOCKER / "deploy.sh")], client)  # as every start of the containers does
            run = ["prefect", "deployment", "run", "nothing/nothing", "--watch", "--watch-interval", "1"]
            assert "Completed" in servers.run(run, client)
        tables = servers.run(["psql", "--dbname=prefect", "--tuples-only", "--command", "select name from work_pool"])
        assert "gpu" in tables
        assert PASSWORD not in (servers.folder / log).read_text()


def test_mlflow_on_postgres_serves_artifacts_and_checks_the_host(servers: Servers) -> None:
    import mlflow

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {
        "MLFLOW_PORT": str(port),
        "MLFLOW_ARTIFACTS_DESTINATION": str(servers.folder / "artifacts"),
        "MLFLOW_SERVER_ALLOWED_HOSTS": "mlflow:5000,127.0.0.1:*",
    }
    with servers.started("mlflow", [str(DOCKER / "start-mlflow.sh")], f"{url}/health", settings) as log:
        client = mlflow.MlflowClient(url)
        run = client.create_run(client.create_experiment("csr")).info
        client.log_metric(run.run_id, "test/chair_i", 0.25, step=1)
        client.log_text(run.run_id, "seen", "note.txt")
        assert client.get_metric_history(run.run_id, "test/chair_i")[0].value == 0.25
        # Through the server, not by a path that only the server's machine has.
        assert run.artifact_uri.startswith("mlflow-artifacts:/")
        assert [file.name for file in (servers.folder / "artifacts").rglob("*.txt")] == ["note.txt"]
        experiments = f"{url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=csr"
        assert status(experiments, {"Host": "mlflow:5000"}) == 200
        assert status(experiments, {"Host": "elsewhere.example.org"}) == 403
        rows = servers.run(["psql", "--dbname=mlflow", "--tuples-only", "--command", "select key, value from metrics"])
        assert "test/chair_i" in rows
        assert PASSWORD not in (servers.folder / log).read_text()
        commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
        assert not [command for command in commands if PASSWORD in command]


@pytest.mark.parametrize("script", ["start-prefect.sh", "start-mlflow.sh", "start-worker.sh", "deploy.sh"])
def test_a_missing_address_is_named(script: str, tmp_path: Path) -> None:
    done = subprocess.run([str(DOCKER / script)], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert done.returncode != 0
    assert ("PREFECT_API_URL" if script in ("start-worker.sh", "deploy.sh") else "PGHOST") in done.stderr
