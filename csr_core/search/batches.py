"""How many rows fit into the memory that is free now: measured on the model at hand, not guessed."""

from __future__ import annotations

from csr_core.free_memory import USED, free_bytes
from csr_core.search.decoding import State

# The most that is worth it: beyond this a step takes as much longer as it does more.
MOST_ON_CPU, MOST_ON_GPU = 64, 256
LOGITS = 6  # float32 tables of the vocabulary a row: logits, weights, and what is made on the way


def token_bytes(state: State) -> int:
    """Of the keys and values of one token."""
    return sum(part[:, :1].numel() * part.element_size() for layer in state.prefix.layers for part in layer)


def fitting_batch(state: State, width: int, tokens: int, written: int = 0) -> int:
    """How many prompts, each with `width` rows that write up to `tokens` each behind `written` others, fit.

    A prompt counts twice, at rest and in the table that rows read; what was written before too. At least 1.
    """
    device = state.logits.device
    one = 2 * (state.prefix.length + written) * token_bytes(state)
    one += width * (tokens * token_bytes(state) + LOGITS * state.logits.numel() * 4)
    most = MOST_ON_GPU if device.type == "cuda" else MOST_ON_CPU
    return max(1, min(most, int(USED * free_bytes(device)) // one))
