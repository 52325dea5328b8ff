"""Cached decoding gives the logits of a plain forward pass over everything."""

import pytest
import torch

from csr_core.policy import Policy, PromptInputs
from csr_core.search.decoding import Decoder
from csr_core.search.prefixes import Prefixes
from tests.search import families, worlds


@torch.inference_mode()
def plain(policy: Policy, prompt: PromptInputs, written: list[int]) -> torch.Tensor:
    """Logits after `written`, without cache, padding or batch."""
    more = torch.tensor([written], dtype=torch.long)
    inputs = {name: value[None] for name, value in prompt.sequence.items()}
    for name, value in inputs.items():
        new = more if name == "input_ids" else torch.full_like(more, name == "attention_mask")
        inputs[name] = torch.cat([value, new.to(value.dtype)], dim=1)
    return policy.model(**inputs, **prompt.features).logits[0, -1]


def check(
    policy: Policy,
    prompts: list[PromptInputs],
    written: list[list[int]],
    shared: bool | None = None,
    shares: bool = True,
) -> None:
    """`shared`: what is asked for, None finds out; `shares`: what must come of it."""
    prefixes = Prefixes(policy, shared)
    states = prefixes.read(prompts, written)
    decoder = prefixes.decoder()
    assert isinstance(decoder, Decoder) == shares
    decoder.admit(states)
    rows = list(zip(prompts, written, strict=True))

    def agree() -> None:
        want = torch.stack([plain(policy, *row) for row in rows])
        assert torch.allclose(decoder.logits, want, atol=1e-4)

    def go_on(parents: list[int], tokens: list[int]) -> None:
        nonlocal rows
        decoder.advance(torch.tensor(parents), torch.tensor(tokens))
        rows = [(rows[parent][0], [*rows[parent][1], token]) for parent, token in zip(parents, tokens, strict=True)]
        agree()

    agree()
    # Fork the first, drop the second, reorder.
    for parents, tokens in ([2, 0, 0], [20, 21, 22]), ([1, 0, 1], [23, 24, 25]), ([0, 1, 2], [26, 27, 28]):
        go_on(parents, tokens)
    # Rows enter beside those under way: one from rest, twice, and a prompt.
    rest, first = decoder.state(1), rows[1]
    decoder.admit([rest, states[0], rest])
    rows = [*rows, first, (prompts[0], written[0]), first]
    agree()
    for parents, tokens in ([3, 5, 0, 4], [30, 31, 32, 33]), ([1, 3, 3, 0], [34, 35, 36, 37]):
        go_on(parents, tokens)
    again = prefixes.decoder()
    again.admit([decoder.state(2)])
    assert torch.equal(again.logits[0], decoder.logits[2])
    assert prefixes.encoded == len({id(prompt) for prompt in prompts})


@pytest.mark.parametrize("shared", [None, False], ids=["shared", "copied"])
def test_rows_of_unlike_length_forked_and_reordered(shared):
    check(worlds.policy(), worlds.prompts(3), [[10, 81, 90], [], [11, 12, 13, 14, 15]], shared, shared is None)


def test_prompts_without_rows_are_forgotten():
    """Of four prompts one is left: the others' keys and values go, and the rest is as before."""
    prompts = worlds.prompts(4)
    prefixes = Prefixes(worlds.policy())
    states = prefixes.read(prompts, [[10], [11], [12], [13]])
    decoder = prefixes.decoder()
    decoder.admit(states)
    decoder.advance(torch.tensor([2, 2]), torch.tensor([20, 21]))
    assert [table.used for held in (decoder._prompts, decoder._answers) for table in held.tables.values()] == [1, 1]
    want = torch.stack([plain(worlds.policy(), prompts[2], [12, token]) for token in (20, 21)])
    assert torch.allclose(decoder.logits, want, atol=1e-4)


def test_nodes_of_one_prompt_share_its_pass():
    first, second = worlds.prompts(2)
    check(worlds.policy(), [first, second, first], [[10], [], [11, 12]])


def test_nothing_written_yet():
    check(worlds.policy(), worlds.prompts(3), [[], [], []])


def test_a_family_with_positions_in_three_dimensions():
    """Qwen2.5-VL counts picture positions by rows and columns; tiny, with random weights."""
    check(*families.make("qwen"), [[10], [], [11, 12]])


def test_layers_with_a_window_keep_copies(capsys):
    """The branch's mask does not count the prompt into a window, so such a family keeps to its own attention."""
    policy, prompts = families.make("qwen", window=4)
    prefixes = Prefixes(policy)
    prefixes.get(prompts[:1])
    assert not isinstance(prefixes.decoder(), Decoder)
    assert "keeps a copy" in capsys.readouterr().err


def test_windows_count_tokens_whatever_the_padding():
    policy, prompts = families.make("qwen", window=4)
    check(policy, prompts, [[10], [], [11, 12, 13]], shares=False)


def test_another_family_smolvlm():
    check(*families.make("smolvlm"), [[10], [], [11, 12]])
