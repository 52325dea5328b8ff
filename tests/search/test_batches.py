"""Batch sizes that find themselves."""

import pytest
import torch

from csr_core.config import GenerateSettings
from csr_core.search import batches
from csr_core.search.decoding import Prefix, State
from tests.search.test_tree import SAMPLE, grown

# Two layers, 2 heads of size 4, 10 tokens, float32: a token is 2 * 2 * 2 * 4 * 4 = 128 bytes.
STATE = State(Prefix([(torch.zeros(2, 10, 4), torch.zeros(2, 10, 4))] * 2, 10, 0), (), torch.zeros(100), 0)


def test_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 rows of 20 tokens behind 30 others: 2 * (10 + 30) * 128 + 5 * (20 * 128 + 6 * 400) = 35040 bytes."""
    assert batches.token_bytes(STATE) == 128
    for free, want in ((0, 1), (10 * 35040 / 0.8 + 8, 10), (1e12, batches.MOST_ON_CPU)):
        monkeypatch.setattr(batches, "free_bytes", lambda _, free=free: int(free))
        assert batches.fitting_batch(STATE, 5, 20, 30) == want


def test_memory_is_measured() -> None:
    before = batches.free_bytes(torch.device("cpu"))
    held = torch.ones(2**28)  # a GiB
    assert batches.free_bytes(torch.device("cpu")) < before - 2**28
    del held


def test_what_is_found_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for free in (0, 2**40):
        monkeypatch.setattr(batches, "free_bytes", lambda _, free=free: free)
        trees = grown(SAMPLE.model_copy(update={"batch_size": None}))
        found.append([[row["token_ids"] for row in tree.rows()] for tree in trees])
    assert found[0] == found[1]
    assert GenerateSettings(keep_by="likelihood").batch_size is None
