"""The images and compose.yaml, as far as they can be checked without an engine."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).parents[2] / "docker"
IMAGES = [DOCKER / "Dockerfile.server", DOCKER / "Dockerfile.worker"]
SCRIPTS = sorted(DOCKER.glob("*.sh"))
COMPOSE = DOCKER / "compose.yaml"
FILLED = {
    "POSTGRES_PASSWORD": "pw-1",
    "PREFECT_AUTH_STRING": "csr:pw-2",
    "S3_ACCESS_KEY_ID": "k",
    "S3_SECRET_ACCESS_KEY": "pw-3",
}


def program(name: str) -> str:
    """A program of the environment or of the machine; skips where it is missing."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def services() -> dict[str, Any]:
    """The services of compose.yaml, merge keys resolved."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return found


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.name)
def test_dockerfile_has_no_lint(file: Path) -> None:
    done = subprocess.run([program("hadolint"), str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_scripts_have_no_lint() -> None:
    done = subprocess.run([program("shellcheck"), *map(str, SCRIPTS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", IMAGES, ids=lambda file: file.name)
def test_image_is_not_root_and_copies_what_exists(file: Path) -> None:
    """Copies are checked against the build's own ignore file, which hides all it does not name."""
    lines = file.read_text().replace("\\\n", " ").splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users[-1].isdigit()
    assert int(users[-1]) > 0
    shown = [line[1:] for line in Path(f"{file}.dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1] if word[:2] != "--"]
    for source in [source for source in sources if source != "."]:
        assert (DOCKER.parent / source).is_file()
        assert any(Path(source).match(pattern) for pattern in shown), f"{source} is not in the build"
    for pattern in shown:
        assert list(DOCKER.parent.glob(pattern)), f"{file.name}.dockerignore names {pattern}, which is nowhere"


def test_compose_is_read_by_compose(tmp_path: Path) -> None:
    """With the passwords it is complete; without them it says which file to write."""
    plugin = shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True)
    command = ["docker", "compose"] if plugin and plugin.returncode == 0 else [program("docker-compose")]
    filled, empty = tmp_path / "filled", tmp_path / "empty"
    filled.write_text("".join(f"{key}={value}\n" for key, value in FILLED.items()))
    empty.write_text("")
    kept = {key: value for key, value in os.environ.items() if key not in FILLED}

    def config(file: Path) -> subprocess.CompletedProcess[str]:
        arguments = ["--env-file", str(file), "--file", str(COMPOSE), "--profile", "s3", "config"]
        return subprocess.run([*command, *arguments], env=kept, capture_output=True, text=True)

    done = config(filled)
    assert done.returncode == 0, done.stderr
    assert set(yaml.safe_load(done.stdout)["services"]) == set(services())
    done = config(empty)
    assert done.returncode != 0
    assert "docker/.env" in done.stderr


def test_no_service_is_root_or_reachable_from_outside() -> None:
    for name, service in services().items():
        assert service["user"].split(":")[0] not in ("", "0", "root"), name
        assert service["cap_drop"] == ["ALL"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    assert services()["postgres"]["networks"] == ["database"]


def test_every_lasting_service_has_a_health_check_and_a_version() -> None:
    for name, service in services().items():
        if service["restart"] != "no":
            assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        if "build" not in service:
            assert service["image"].partition(":")[2] not in ("", "latest"), name


def test_the_worker_gets_the_gpus() -> None:
    (device,) = services()["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]


def test_no_secret_is_in_a_committed_file() -> None:
    """What is secret comes from docker/.env, whose example leaves it empty, and which git ignores."""
    secret = ("PASSWORD", "AUTH_STRING", "SECRET", "TOKEN", "KEY_ID", "ACCESS_KEY", "SECRET_KEY")
    for name, service in services().items():
        for key, value in service.get("environment", {}).items():
            if key.endswith(secret):
                assert value.startswith("${"), f"{name}: {key}"
                assert ":-}" in value or ":?" in value, f"{name}: {key}"
    for line in (DOCKER / ".env.example").read_text().splitlines():
        key, _, value = line.lstrip("#").partition("=")
        if key.endswith(secret):
            assert value == "", line
    ignored = subprocess.run(["git", "check-ignore", "--quiet", "docker/.env"], cwd=DOCKER.parent)
    assert ignored.returncode == 0


def test_every_setting_of_compose_is_in_the_example() -> None:
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", COMPOSE.read_text()))
    named = set(re.findall(r"^#?([A-Z0-9_]+)=", (DOCKER / ".env.example").read_text(), re.MULTILINE))
    assert used - named == set()
    assert named - used == {"COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES"}
