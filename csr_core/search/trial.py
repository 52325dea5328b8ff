"""What is tried on the first prompt: whether rows can share what they have in common, and whether a model goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from csr_core.errors import InputError
from csr_core.policy import Policy, PromptInputs, collate
from csr_core.search.copied import CopyingDecoder
from csr_core.search.decoding import Decoder, State
from csr_core.search.passes import close, last_logits
from csr_core.stages.memory import is_out_of_memory

# What a model that goes another way raises.
REFUSALS = (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError, AssertionError)


def agree(policy: Policy, state: State) -> bool:
    """Whether decode steps over a shared prompt and a shared sentence give what copies of them give."""
    token = state.logits.argmax()[None].cpu()
    found = []
    for kind in (Decoder, CopyingDecoder):
        try:
            first = kind(policy)
            first.admit([state])
            first.advance([0], token)
            second = kind(policy)
            second.admit([first.state(0)])
            second.advance([0, 0], torch.cat([token, token]))
        except REFUSALS:
            return False
        found.append(second.logits.float())
    return close(found[0], found[1], policy.model.dtype)


def check_goes_on(policy: Policy, prompt: PromptInputs, state: State, decoder: Decoder | CopyingDecoder) -> None:
    """Two tokens written on from a prompt's keys and values must have the logits of one pass over the whole row.

    Raises:
        InputError: they have not: positions, masks or memory of the model's family are of a kind not known here.
    """
    token = int(state.logits.argmax())
    with told_why(policy):
        decoder.admit([state])
        decoder.advance([0], torch.tensor([token]))
        decoder.advance([0], torch.tensor([token]))
        expected = _whole(policy, prompt, [token, token])
        off = float((decoder.logits - expected).abs().max())
        assert close(decoder.logits, expected, policy.model.dtype, slack=4.0), f"logits differ by {off:.2g}"


@contextmanager
def told_why(policy: Policy) -> Iterator[None]:
    """Say in words what it means when a model raises on its first prompt, or gives what is not expected."""
    try:
        yield
    except REFUSALS as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            f"{type(policy.model).__name__} ({policy.model.config.model_type}) cannot go on from a prompt's keys and "
            f"values as a search needs it, or gives other likelihoods then ({type(error).__name__}: {error}). "
            "Positions, masks or memory of its family are of a kind not known here: it needs an entry in "
            "csr_core/policy/families.py (see docs/models.md), or choose another model.path"
        ) from error


@torch.inference_mode()
def _whole(policy: Policy, prompt: PromptInputs, answer: list[int]) -> Tensor:
    inputs = collate([prompt], [answer], policy.pad_id, policy.device, policy.family.on_answers)
    inputs = {name: _cast(value, policy.model.dtype) for name, value in inputs.items()}
    return last_logits(policy.model(**inputs, use_cache=False))


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.to(dtype) if value.is_floating_point() else value
