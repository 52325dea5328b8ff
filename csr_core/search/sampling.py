"""Seeded sampling in which a draw depends on its place in the tree alone, never on what else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Stream:
    """The uniform numbers of one sentence: a hash of (seed, iteration, prompt, place in the tree) and of the step."""

    def __init__(self, seed: int, iteration: int, prompt_id: str, path: Sequence[int]) -> None:
        """`path`: which sample each sentence on the way was among its siblings, this one's own number last."""
        name = f"{seed}\n{iteration}\n{prompt_id}\n{'.'.join(map(str, path))}\n"
        self._start = blake2b(name.encode(), digest_size=8)

    def uniform(self, step: int) -> float:
        """A number in [0, 1), the same at every call with `step`."""
        digest = self._start.copy()
        digest.update(step.to_bytes(4, "little"))
        return (int.from_bytes(digest.digest(), "little") >> 11) * 2.0**-53


def allowed_weights(
    logits: Float[Tensor, "rows vocab"], temperature: float, forbidden: Bool[Tensor, "rows vocab"]
) -> Float[Tensor, "rows vocab"]:
    """softmax(logits / temperature) over the tokens that may be written, in float64."""
    return (logits.double() / temperature).masked_fill(forbidden, float("-inf")).softmax(-1)


def draw(
    weights: Float[Tensor, "rows vocab"], rows: Int[Tensor, " samples"], uniforms: Float[Tensor, " samples"]
) -> Int[Tensor, " samples"]:
    """The first token of `weights[rows]` at which the running sum exceeds the uniform number (inverse CDF).

    A batch of another shape moves the sums by about 1e-7, so a draw changes with about that probability.
    """
    sums = weights.cumsum(-1)
    target = uniforms * sums[rows, -1]
    found = torch.searchsorted(sums[rows], target[:, None], right=True)[:, 0]
    # Rounding can put the target at the total itself: then the last token with any weight.
    last = weights.shape[-1] - 1 - (weights > 0).int().flip(-1).argmax(-1)
    return torch.minimum(found, last[rows])
