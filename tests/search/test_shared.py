"""Attention over a shared prompt and an own branch, merged, is attention over both together."""

from types import SimpleNamespace

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config

from csr_core.search.shared import Common, View, has_windows, shared_prefix_attention
from csr_core.search.slots import Slots

SIZE = 4


MODULE = SimpleNamespace(layer_idx=0)


def common(sequences: list[tuple[torch.Tensor, torch.Tensor]], slot_of_row: list[int], rooms: int = 1) -> Common:
    """Keys and values [heads, tokens, size] that several rows read."""
    slots = Slots([sequences[0]])
    for one in sequences:
        slots.put([[one]])
    out = Common(slots, rooms)
    out.assign(slot_of_row)
    return out


def own(rows: list[tuple[torch.Tensor, torch.Tensor]], new: int) -> Slots:
    """What each row wrote before the new tokens."""
    slots = Slots([rows[0]])
    for one in rows:
        slots.put([[one]])
    return slots


def attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, view: View, **options: float
) -> torch.Tensor:
    view.prepare(query.shape[2])
    return shared_prefix_attention(MODULE, query, key, value, None, shared=view, **options)[0]


def test_by_hand() -> None:
    """One head of size 1, scaling 1, query 1. Scores are the keys: ln 1 and ln 2 in the prompt, ln 3 the row's own.

    Weights 1, 2, 3 of 6 on the values 6, 12, 18: (6 + 24 + 54) / 6 = 14. A row that has the ln 2 alone in common with
    others has weights 2, 3 of 5 on 12, 18: (24 + 54) / 5 = 15.6.
    """
    logs = torch.tensor([1.0, 2.0, 3.0]).log()
    prompt = (logs[:2].view(1, 2, 1), torch.tensor([6.0, 12.0]).view(1, 2, 1))
    part = (logs[1:2].view(1, 1, 1), torch.tensor([12.0]).view(1, 1, 1))
    nothing = (torch.zeros(1, 0, 1), torch.zeros(1, 0, 1))
    view = View([common([prompt, part], [0, 1])], own([nothing, nothing], 1))
    new = (logs[2].expand(2, 1, 1, 1), torch.tensor(18.0).expand(2, 1, 1, 1))
    out = attention(torch.ones(2, 1, 1, 1), *new, view, scaling=1.0)
    assert out.flatten().tolist() == pytest.approx([14.0, 15.6])


@pytest.mark.parametrize("rooms", [1, 16])
@pytest.mark.parametrize("new", [1, 3], ids=["one token", "three tokens"])
def test_rows_of_unlike_prompts_and_answers_in_any_order(new: int, rooms: int) -> None:
    """Two heads share a key head; prompts of 5 and 3 tokens; row 1 has no sentence before its own."""
    draw = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, SIZE, generator=draw)

    prompts = [(random(2, length), random(2, length)) for length in (5, 3)]
    answers = [(random(2, length), random(2, length)) for length in (2, 18)]
    prompt_of_row, answer_of_row = [1, 0, 1, 1], [0, -1, 1, 1]
    before = [(random(2, length), random(2, length)) for length in ((4, 0, 17, 1) if new == 1 else (0, 0, 0, 0))]
    query, key, value = random(4, 4, new), random(4, 2, new), random(4, 2, new)
    view = View([common(prompts, prompt_of_row, rooms), common(answers, answer_of_row, rooms)], own(before, new))
    out = attention(query, key, value, view)
    for row in range(4):
        seen = [prompts[prompt_of_row[row]], *([answers[answer_of_row[row]]] if answer_of_row[row] >= 0 else [])]
        seen += [before[row], (key[row], value[row])]
        keys, values = (torch.cat([one[side] for one in seen], dim=1) for side in (0, 1))
        every = torch.ones(new, keys.shape[1], dtype=torch.bool).tril(keys.shape[1] - new)
        want = torch.nn.functional.scaled_dot_product_attention(
            query[row], keys.repeat_interleave(2, dim=0), values.repeat_interleave(2, dim=0), every
        )
        assert torch.allclose(out[row].transpose(0, 1), want, atol=1e-6)


def test_slots_have_no_holes() -> None:
    """Freed slots are filled with the last; tables grow with what they hold."""

    def sequence(number: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.full((1, length, 1), float(number)), torch.full((1, length, 1), -float(number))

    slots = Slots([sequence(0, 1)])
    for number in range(40):
        assert slots.put([[sequence(number, number)], [sequence(number, 1)]]) == number
    assert slots.free(3) == 39
    assert slots.free(38) == 38
    assert slots.used == 38
    assert slots.lengths[3] == 40
    [(keys, values)] = slots.get(3)
    assert keys.flatten().tolist() == [39.0] * 40
    assert values.flatten().tolist() == [-39.0] * 40
    slots.copy([5, 6], [7, 8])
    assert slots.lengths[7:9] == [6, 7]
    assert slots.get(8)[0][0].flatten().tolist() == [6.0] * 7


@pytest.mark.parametrize(
    ("config", "windows"),
    [
        (LlamaConfig(), False),
        (Gemma3TextConfig(), True),
        (Qwen2Config(sliding_window=4096), False),  # not used unless asked for
        (Qwen2Config(use_sliding_window=True, max_window_layers=1), True),
        (MistralConfig(sliding_window=None), False),
        (MistralConfig(sliding_window=4096), True),  # says nothing of its layers
        (MistralConfig(sliding_window=4096, max_position_embeddings=2048), False),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_which_models_have_windows(config: PreTrainedConfig, windows: bool) -> None:
    assert has_windows(config) == windows
