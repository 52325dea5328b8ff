"""Seeded sampling in which a draw depends on its place in the tree alone, never on what else is in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from jaxtyping import Float, Int
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


class Drawer:
    """Draws tokens from softmax(logits / temperature) over what may be written, by the inverse of the running sum.

    The vocabulary is summed in blocks (float64), so that the whole of it is passed over as few times as can be.
    """

    BLOCK = 128

    def __init__(self, logits: Float[Tensor, "rows vocab"], temperature: float, forbidden: Sequence[int]) -> None:
        """`forbidden`: tokens that no row may write."""
        self._logits = logits
        self._top = logits.amax(-1, keepdim=True)
        # All of the probability, also of what is forbidden, for the likelihood of what is drawn.
        weights = (logits - self._top).exp_() if temperature == 1 else (logits - self._top).div_(temperature).exp_()
        hidden = weights[:, list(forbidden)].double().sum(-1)
        more = -weights.shape[-1] % self.BLOCK
        self._weights = torch.nn.functional.pad(weights, (0, more)) if more else weights  # padding by none copies too
        self._weights[:, list(forbidden)] = 0
        self._sums = self._in_blocks().sum(-1, dtype=torch.float64)
        if temperature == 1:
            self._log_total = (self._sums.sum(-1) + hidden).log() + self._top[:, 0].double()
        else:
            self._log_total = logits.logsumexp(-1).double()

    def _in_blocks(self) -> Float[Tensor, "rows blocks block"]:
        return self._weights.view(len(self._weights), -1, self.BLOCK)

    def forbid(self, rows: Sequence[int], tokens: Sequence[int]) -> None:
        """Further tokens that these rows may not write."""
        if not rows or not tokens:
            return
        places = torch.tensor(list(rows), device=self._logits.device)
        for token in tokens:
            self._weights[places, token] = 0
            block = token // self.BLOCK
            self._sums[places, block] = self._in_blocks()[places, block].sum(-1, dtype=torch.float64)

    def draw(
        self, rows: Int[Tensor, " samples"], uniforms: Float[Tensor, " samples"]
    ) -> tuple[Int[Tensor, " samples"], Float[Tensor, " samples"]]:
        """For each sample the first token of its row at which the running sum exceeds the uniform number's share.

        Returns tokens, and log p of each under the full softmax at temperature 1 (float64, nats). A batch of another
        shape moves the sums by about 1e-7, so a draw changes with about that probability.
        """
        running = self._sums.cumsum(-1)[rows]
        target = uniforms * running[:, -1]
        # Rounding can put the target at the total itself: then the last one with any weight is taken.
        block = torch.minimum(_first_above(running, target), _last_with_weight(self._sums[rows]))
        before = (running - self._sums[rows]).gather(1, block[:, None])[:, 0]
        inside = self._in_blocks()[rows, block].double()
        place = torch.minimum(_first_above(inside.cumsum(-1), target - before), _last_with_weight(inside))
        tokens = block * self.BLOCK + place
        return tokens, self._logits[rows, tokens].double() - self._log_total[rows]


def _first_above(running: Float[Tensor, "samples n"], target: Float[Tensor, " samples"]) -> Int[Tensor, " samples"]:
    return torch.searchsorted(running, target[:, None], right=True)[:, 0]


def _last_with_weight(weights: Float[Tensor, "samples n"]) -> Int[Tensor, " samples"]:
    return weights.shape[-1] - 1 - (weights > 0).int().flip(-1).argmax(-1)
