"""One thread for each test process: two processes run side by side, and more threads than cores collapse."""

import os
import shutil
from collections.abc import Iterator

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(autouse=True)
def mlflow_address() -> Iterator[None]:
    """MLflow leaves the address it was told in the environment, where a later test's processes would find it."""
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser's program."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no browser here: `apt-get install chromium` on Debian")
    return path
