"""One GPU, one stage: slots of this machine, held by the process that uses the GPU and freed when it ends.

Fine-tuning may hold several, for as many processes of its own.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from csr_core.errors import SettingsError

POLL_SECONDS = 0.5


def visible_gpus() -> list[str]:
    """Names of the GPUs this process may use, as CUDA_VISIBLE_DEVICES has them; CUDA itself is left alone.

    Asking CUDA would take memory on each GPU, and no process forked after that could use it.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip() and name.strip() != "-1"]
    if shutil.which("nvidia-smi") is None:
        return []
    asked = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True, timeout=60, check=False)
    return [
        str(number) for number, _ in enumerate(line for line in asked.stdout.splitlines() if line.startswith("GPU"))
    ]


@contextmanager
def gpu_slot(
    device: str, gpus: Sequence[str] | None = None, folder: Path | None = None, count: int = 1
) -> Iterator[str | None]:
    """Hold `count` GPUs of this machine alone, and make them all this process sees; None where there is none.

    Yields them as CUDA_VISIBLE_DEVICES has them. All are taken at once or none is: two that each wait for what the
    other holds would wait for ever.

    A lock on a file, which the system takes back however the process ends. To be entered before CUDA is used.

    Args:
        device: `model.device`: with `cuda:N` it is that GPU, with `cpu` none. gpus: default `visible_gpus()`.
        folder: of the locks; default: one for each user in the machine's folder for temporary files.

    Raises:
        SettingsError: there are fewer than `count`.
    """
    gpus = visible_gpus() if gpus is None else gpus
    if not gpus or (device not in ("auto", "cuda") and not device.startswith("cuda:")):
        yield None
        return
    wanted = [gpus[int(device[5:])]] if device.startswith("cuda:") else list(gpus)
    if count > len(wanted):
        raise SettingsError(
            f"{count} GPUs are asked for and {len(wanted)} can be used ({', '.join(wanted)}): lower "
            "run.num_processes, or change model.device or CUDA_VISIBLE_DEVICES"
        )
    folder = folder or Path(tempfile.gettempdir()) / f"csr-gpus-{getpass.getuser()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as held:
        gpu = _wait_for(count, wanted, folder, held)
        if not device.startswith("cuda:"):
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu
        yield gpu


def _wait_for(count: int, gpus: Sequence[str], folder: Path, held: ExitStack) -> str:
    told = False
    while True:
        taken = []
        with ExitStack() as tried:
            for gpu in gpus:
                with suppress(Timeout):
                    tried.enter_context(FileLock(folder / f"{gpu.replace('/', '-')}.lock", timeout=0))
                    taken.append(gpu)
                if len(taken) == count:
                    held.enter_context(tried.pop_all())
                    return ",".join(taken)
        if not told:
            print(
                f"waiting for {count} of the GPUs {', '.join(gpus)}: in use by other stages",
                file=sys.stderr,
                flush=True,
            )
            told = True
        time.sleep(POLL_SECONDS)
