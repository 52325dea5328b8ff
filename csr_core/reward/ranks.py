"""The rewards of the authors' published code: ranks among siblings in the place of values."""

from __future__ import annotations

from collections.abc import Sequence

TIE = 1e-4


def tolerant_order(values: Sequence[float], tolerance: float = TIE, descending: bool = True) -> list[int]:
    """Indices of `values`, sorted, where values that differ by floating-point noise alone count as equal.

    Values within `tolerance` (times the value's size where that exceeds 1) of the first of their run are equal, and
    equal ones keep their order, as in a stable sort: the order does not depend on how rows were batched.
    """
    sign = -1.0 if descending else 1.0
    ordered = sorted(range(len(values)), key=lambda index: (sign * values[index], index))
    out: list[int] = []
    run: list[int] = []
    for index in ordered:
        if run and abs(values[index] - values[run[0]]) > tolerance * max(1.0, abs(values[run[0]])):
            out += sorted(run)
            run = []
        run.append(index)
    return out + sorted(run)


def sibling_ranks(values: Sequence[float]) -> list[float]:
    """(index + 1) / n by descending value: 1/n is the best of n siblings, 1 the worst; ties in the siblings' order."""
    ranks = [0.0] * len(values)
    for position, index in enumerate(tolerant_order(values)):
        ranks[index] = (position + 1) / len(values)
    return ranks


def combined_rank(likelihood_rank: float, relevance_rank: float, image_weight: float) -> float:
    """(1 - a) * rank_T + a * rank_I of one node, a the weight of the image; lower is better."""
    return (1.0 - image_weight) * likelihood_rank + image_weight * relevance_rank
