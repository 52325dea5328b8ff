"""How an update's pairs are shared out among processes."""

import pytest
from torch.utils.data import BatchSampler, SequentialSampler

from csr_core.config import FinetuneSettings, RunSettings, Settings
from csr_core.dpo.ranks import Rounds, by_first, least, rank, ranks
from csr_core.errors import SettingsError
from csr_core.params import settings_from


@pytest.mark.parametrize(
    ("pairs", "size", "count", "dealt"),
    [
        (8, 2, 2, [[0, 1], [2, 3], [4, 5], [6, 7]]),
        (6, 2, 2, [[0, 1], [2, 3], [4, 5], [4, 5]]),  # the odd batch is seen by both: its mean stays the same
        (7, 2, 2, [[0, 1], [2, 3], [4, 5], [6, 6]]),  # a short one is filled up with itself
        (5, 2, 2, [[0, 1], [2, 3], [4], [4]]),
        (4, 1, 3, [[0], [1], [2], [3], [3], [3]]),
        (5, 1, 3, [[0], [1], [2], [3], [4], [3]]),  # two of three cannot be weighed evenly
    ],
)
def test_rounds(pairs: int, size: int, count: int, dealt: list[list[int]]) -> None:
    rounds = Rounds(SequentialSampler(range(pairs)), size, count)
    assert list(rounds) == dealt
    assert len(rounds) == len(dealt)
    seen = [list(dict.fromkeys(batch)) for batch in dealt]
    assert seen[: -(-pairs // size)] == list(BatchSampler(SequentialSampler(range(pairs)), size, drop_last=False))


@pytest.mark.parametrize(
    ("size", "steps", "processes", "each"),
    [
        (1, 16, 8, (1, 2)),  # the paper's: fewer steps
        (16, 1, 4, (4, 1)),  # smaller ones
        (2, 2, 4, (1, 1)),  # both
        (4, 6, 4, (2, 3)),
        (3, 5, 1, (3, 5)),
    ],
)
def test_an_update_stays_the_same(size: int, steps: int, processes: int, each: tuple[int, int]) -> None:
    share = FinetuneSettings(batch_size=size, accumulation=steps).shared_by(processes)
    assert (share.batch_size, share.accumulation) == each
    assert share.batch_size * share.accumulation * processes == size * steps


def test_what_cannot_be_shared_out_is_refused_before_anything_starts() -> None:
    with pytest.raises(SettingsError, match=r"run.num_processes is 3.*batch_size.*accumulation = 2 x 8"):
        settings_from({"run": {"num_processes": 3}, "finetune": {"batch_size": 2, "accumulation": 8}})
    with pytest.raises(SettingsError, match=r"run.fsdp.*finetune.carry is 'merged'"):
        settings_from({"run": {"fsdp": True}, "finetune": {"carry": "merged"}})
    assert Settings(run=RunSettings(num_processes=1))


def test_alone_a_process_agrees_with_itself() -> None:
    assert (ranks(), rank(), by_first(lambda: "found"), least(3)) == (1, 0, "found", 3)
