"""What the search asks of decoding, and what it gets: nodes to grow, and their next sentences."""

from __future__ import annotations

from dataclasses import dataclass, field

from csr_core.policy import PromptInputs
from csr_core.search.decoding import State
from csr_core.search.sampling import Stream


@dataclass(frozen=True, eq=False)
class Job:
    """A node to grow.

    streams: one for each sentence to sample (unused by beams). state: where the model stands after `written`, if known.
    last: no sentence comes after these, so nobody asks where the model stands after them.
    """

    prompt: PromptInputs
    written: tuple[int, ...]
    streams: tuple[Stream, ...] = ()
    state: State | None = None
    last: bool = False


@dataclass(frozen=True)
class Sentence:
    """A next sentence. The token that ends the turn is not among `ids`; `final` says that it came.

    log_likelihood: sum of log p of `ids` (nats) under the model's full softmax at temperature 1, no penalty.
    score: the search's own figure for this sentence alone. padding: tokens by which the longest sibling is longer.
    state: where the model stands after it, for those that write on.
    """

    ids: tuple[int, ...]
    log_likelihood: float
    score: float
    final: bool
    padding: int = 0
    state: State | None = field(default=None, compare=False, repr=False)
