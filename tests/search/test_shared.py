"""Attention over a shared prompt and an own branch, merged, is attention over both together."""

from types import SimpleNamespace

import pytest
import torch

from csr_core.search.shared import SharedPrefix, shared_prefix_attention

SIZE = 4


def test_by_hand() -> None:
    """One head of size 1, scaling 1, query 1. Scores are the keys: ln 1 and ln 2 in the prompt, ln 3 in the branch.

    Weights 1, 2, 3 of 6 on the values 6, 12, 18: (6 + 24 + 54) / 6 = 14.
    """
    logs = torch.tensor([1.0, 2.0, 3.0]).log()
    shared = SharedPrefix.of([[(logs[:2].view(1, 2, 1), torch.tensor([6.0, 12.0]).view(1, 2, 1))]], longest=2)
    shared.assign(torch.tensor([0]))
    own = (logs[2].view(1, 1, 1, 1), torch.tensor(18.0).view(1, 1, 1, 1))
    out, _ = shared_prefix_attention(
        SimpleNamespace(layer_idx=0), torch.ones(1, 1, 1, 1), *own, None, scaling=1.0, shared=shared
    )
    assert out.item() == pytest.approx(14.0)


@pytest.mark.parametrize("least_room", [1, 16])
@pytest.mark.parametrize("new", [1, 3], ids=["one token", "three tokens"])
def test_rows_of_unlike_prompts_in_any_order(new: int, least_room: int) -> None:
    """Two heads share a key head; prompts of 5 and 3 tokens; rows 1 and 2 are padded on the left."""
    draw = torch.Generator().manual_seed(0)
    lengths, prompt_of_row, own = (5, 3), torch.tensor([1, 0, 1, 1]), 4
    prompts = [[tuple(torch.randn(2, length, SIZE, generator=draw) for _ in range(2))] for length in lengths]
    query = torch.randn(4, 4, new, SIZE, generator=draw)
    key, value = (torch.randn(4, 2, own, SIZE, generator=draw) for _ in range(2))
    seen = torch.ones(new, own, dtype=torch.bool).tril(own - new).repeat(4, 1, 1, 1)
    seen[1:3, :, :, 0] = False
    shared = SharedPrefix.of(prompts, longest=8, least_room=least_room)
    shared.assign(prompt_of_row)
    out, _ = shared_prefix_attention(SimpleNamespace(layer_idx=0), query, key, value, seen, shared=shared)
    for row, prompt in enumerate(prompt_of_row.tolist()):
        keys, values = prompts[prompt][0]
        every = torch.cat([torch.ones(new, lengths[prompt], dtype=torch.bool), seen[row, 0]], dim=1)
        want = torch.nn.functional.scaled_dot_product_attention(
            query[row],
            torch.cat([keys, key[row]], dim=1).repeat_interleave(2, dim=0),
            torch.cat([values, value[row]], dim=1).repeat_interleave(2, dim=0),
            every,
        )
        assert torch.allclose(out[row].transpose(0, 1), want, atol=1e-6)


def test_no_mask_means_causal() -> None:
    query, key, value = (torch.randn(1, 1, 3, SIZE, generator=torch.Generator().manual_seed(n)) for n in range(3))
    nothing = (torch.zeros(1, 1, SIZE), torch.zeros(1, 1, SIZE))  # one prompt token with score 0
    shared = SharedPrefix.of([[nothing]], longest=1)
    shared.assign(torch.tensor([0]))
    out, _ = shared_prefix_attention(SimpleNamespace(layer_idx=0), query, key, value, None, shared=shared)
    zero = torch.zeros(1, 1, 1, SIZE)
    seen = torch.cat([torch.ones(3, 1, dtype=torch.bool), torch.ones(3, 3, dtype=torch.bool).tril()], dim=1)
    want = torch.nn.functional.scaled_dot_product_attention(
        query, torch.cat([zero, key], dim=2), torch.cat([zero, value], dim=2), seen
    )
    assert torch.allclose(out.transpose(1, 2), want, atol=1e-6)
