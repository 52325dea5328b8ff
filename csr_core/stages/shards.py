"""Long stages in shards: each leaves parts of its own, so that what is done need not be done again."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from csr_core.errors import OutOfMemoryError
from csr_core.progress import counting, file_of_child
from csr_core.stages.costs import Use, add_use, used_by
from csr_core.stages.gpus import visible_gpus

PRELOAD = "csr_core.stages.preload"  # what stages import, for processes that are forked


def part(folder: Path, number: int, ending: str) -> Path:
    """The file of shard `number`."""
    return folder / f"part-{number:05d}{ending}"


def missing_parts(folder: Path, count: int, endings: Sequence[str]) -> list[int]:
    """Numbers of the shards that lack a file; each file appears whole, so all files are there when a shard is done."""
    return [n for n in range(count) if not all(part(folder, n, ending).is_file() for ending in endings)]


@dataclass(frozen=True)
class Shards:
    """How a stage is cut up.

    sizes: how many items each shard has, known from the stage's inputs; unit: what those are called. make(folder,
    numbers): write those parts, the model loaded once; picklable, since it also runs in other processes. files: endings
    of what a shard leaves. cut: parts of another cut cannot be gone on with.
    """

    sizes: Callable[[], Sequence[int]]
    make: Callable[[Path, Sequence[int]], None]
    files: tuple[str, ...]
    cut: str
    unit: str = "items"

    def count(self) -> int:
        return len(self.sizes())

    def extent(self, missing: Iterable[int]) -> tuple[int, str, int]:
        """(items of the whole stage, their unit, how many of them are done) where `missing` shards are not there."""
        sizes = self.sizes()
        return sum(sizes), self.unit, sum(sizes) - sum(sizes[number] for number in missing)

    def has(self, folder: Path, number: int) -> bool:
        return all(part(folder, number, ending).is_file() for ending in self.files)

    def missing(self, folder: Path) -> list[int]:
        return missing_parts(folder, self.count(), self.files)


def make_missing(shards: Shards, folder: Path, workers: int) -> None:
    """Make the shards that are not there yet, with `workers` processes side by side.

    Raises:
        OutOfMemoryError: a worker was killed.
    """
    todo = shards.missing(folder)
    workers = min(workers, len(todo))
    if workers <= 1:
        shards.make(folder, todo)
        return
    # A GPU's driver does not survive a fork; elsewhere forks of one process that has imported all save time.
    context = multiprocessing.get_context("spawn" if visible_gpus() else "forkserver")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([PRELOAD])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=share_cores, initargs=(workers,)) as pool:
        waiting = [
            pool.submit(_work, file_of_child(str(first)), shards.make, folder, todo[first::workers])
            for first in range(workers)
        ]
        try:
            for future in as_completed(waiting):
                add_use(future.result())
        except BrokenProcessPool as error:
            raise OutOfMemoryError(
                f"a worker process died ({error}); was it killed for memory? Finished shards are kept: run again with "
                "a smaller run.workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _work(progress: Path | None, make: Callable[..., None], folder: Path, numbers: Sequence[int]) -> Use:
    """What a worker process does: some of the shards, counted into the file `progress`."""
    with counting(progress):
        return used_by(make, folder, numbers)


def share_cores(workers: int) -> None:
    """Give this process its share of the cores: more threads than cores make everything slower."""
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
