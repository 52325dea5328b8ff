"""Fine-tuning in several processes of this machine, one for each GPU (or on a CPU, to try it out).

`accelerate launch` and `torchrun` put each of them into a session of its own, out of reach of the kill that ends a
stage's process group. torch.multiprocessing, which accelerate's own launchers of functions build upon, does not.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from csr_core.config import Settings
from csr_core.errors import CsrError, OutOfMemoryError, SettingsError
from csr_core.progress import counting, file_of_child
from csr_core.stages.costs import add_use, begin_use, use_so_far
from csr_core.stages.gpus import visible_gpus
from csr_core.stages.memory import memory_errors
from csr_core.stages.shards import PRELOAD, share_cores

# Ranks wait for each other while the first reads pairs; one that died ends all of them, so none waits in vain.
PATIENCE = timedelta(days=7)


def process_count(settings: Settings) -> int:
    """How many processes fine-tune together: run.num_processes, or as many as there are GPUs that an update divides by.

    Raises:
        SettingsError: more are asked for than there are GPUs, or run.fsdp has nothing to share out.
    """
    asked, device = settings.run.num_processes, settings.model.device
    gpus = visible_gpus() if device in ("auto", "cuda") else [device] if device.startswith("cuda:") else []
    if asked and gpus and asked > len(gpus):
        raise SettingsError(
            f"run.num_processes is {asked}, one for each GPU, and {len(gpus)} can be used ({', '.join(gpus)}): lower "
            "it, set it to null for all of them, or change model.device or CUDA_VISIBLE_DEVICES"
        )
    count = asked or next((n for n in range(len(gpus), 1, -1) if settings.finetune.divides_by(n)), 1)
    if settings.run.fsdp and (count == 1 or not gpus):
        raise SettingsError(
            f"run.fsdp is true, which shards the model over several GPUs, and fine-tuning has {count} of {len(gpus)}: "
            "set it to false, or make more visible; their number must divide finetune.batch_size x accumulation"
        )
    return count


def launch(count: int, device: str, function: Callable[..., Any], *arguments: Any) -> None:
    """Call `function(*arguments)` in `count` processes, ranks of one torch.distributed group; returns when all did.

    When one fails, the others are killed. Both arguments must be picklable. What the ranks but the first print is
    dropped. `device`: `model.device`, on whose kind they work: each on a GPU of its own, or all on the CPU.

    Raises:
        CsrError: what a rank raised. OutOfMemoryError: a rank ran out of memory, or was killed. RuntimeError: any
            other failure, with the rank's traceback.
    """
    import torch.multiprocessing as mp

    method = _start_method()
    failures, used = (multiprocessing.get_context(method).SimpleQueue() for _ in range(2))
    with tempfile.TemporaryDirectory(prefix="csr-ranks-") as folder:
        start = (
            count,
            device,
            str(Path(folder) / "meeting"),
            failures,
            used,
            file_of_child("rank"),
            function,
            arguments,
        )
        context = mp.start_processes(_rank, start, nprocs=count, start_method=method, join=False)
        try:
            while not context.join():
                pass
        except mp.ProcessExitedException as error:
            _raise_cause(failures, [process.exitcode for process in context.processes], error)
    while not used.empty():
        add_use(used.get())


def _start_method() -> str:
    """As for shards: a GPU's driver does not survive a fork; elsewhere forks of one that has imported all save time."""
    if visible_gpus():
        return "spawn"
    multiprocessing.get_context("forkserver").set_forkserver_preload([PRELOAD, "trl.trainer.dpo_trainer"])
    return "forkserver"


def _raise_cause(failures: Any, codes: list[int], error: Exception) -> None:
    """The ranks that lost a fellow fail too: what was told first is the cause, unless one could tell nothing."""
    cause = RuntimeError(f"fine-tuning ended without a word ({error})") if failures.empty() else failures.get()
    if isinstance(cause, RuntimeError) and -signal.SIGKILL in codes:
        raise OutOfMemoryError(
            f"rank {codes.index(-signal.SIGKILL)} of fine-tuning was killed, most likely by the system for the memory "
            "it took: lower finetune.batch_size (and raise finetune.accumulation) or run.num_processes"
        ) from error
    raise cause from None


def _rank(
    index: int,
    count: int,
    device: str,
    meeting: str,
    failures: Any,
    used: Any,
    progress: Path | None,
    function: Callable[..., Any],
    arguments: Any,
) -> None:
    """The life of one rank. On failure it ends at once: waiting for its fellows' tensors it could not end any more."""
    import torch

    from csr_core.dpo.ranks import by_first

    _end_with_parent()
    if index > 0:
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        _meet(index, count, device, meeting)
        begin_use()
        # Without a file the first shows its progress itself, as this process would.
        counted = counting(progress if index == 0 else None) if index or progress else nullcontext()
        with memory_errors("finetune"), counted:
            function(*arguments)
        used.put(use_so_far())
        by_first(lambda: None)  # none leaves before the first has written all
        torch.distributed.destroy_process_group()
    except CsrError as error:
        failures.put(error)
        os._exit(1)
    except BaseException:
        failures.put(RuntimeError(f"rank {index} of fine-tuning failed:\n{traceback.format_exc()}"))
        os._exit(1)


def _meet(index: int, count: int, device: str, meeting: str) -> None:
    """Join the group, under the names that `accelerate launch` and `torchrun` use, by way of a file.

    No port is opened for that, so two trainings on a machine are not in each other's way.
    """
    import torch
    from accelerate.utils import check_cuda_p2p_ib_support

    os.environ |= {"RANK": str(index), "LOCAL_RANK": str(index)}
    os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    backend = "gloo"
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if device != "cpu" and torch.cuda.is_available():
        torch.cuda.set_device(index)
        if not check_cuda_p2p_ib_support():  # some cards for desktops cannot reach each other's memory
            os.environ |= {"NCCL_P2P_DISABLE": "1", "NCCL_IB_DISABLE": "1"}
        backend = "cuda:nccl,cpu:gloo"
    share_cores(count)
    torch.distributed.init_process_group(
        backend, init_method=f"file://{meeting}", rank=index, world_size=count, timeout=PATIENCE
    )


def _end_with_parent() -> None:
    """Kill this rank once the process that launched it is gone, which may be killed alone."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
