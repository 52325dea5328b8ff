"""Pairs that are not trained on: what was learnt by heart shows in how much better the trained ones are told apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from typing import Any

import torch

from csr_core.dpo.pairs import PairCollator, Pairs
from csr_core.dpo.shared import likelihoods
from csr_core.policy import Policy
from csr_core.policy.adapters import TRAINED

REFERENCE = "ref"  # TRL's name of the frozen copy of an adapter that is trained further

Row = dict[str, Any]


def held_out(pairs: Pairs, share: float, seed: int) -> tuple[Pairs, list[Row]]:
    """(pairs to train on, pairs held out): `share` of them, to the nearest whole number, by a hash of their id.

    Of few pairs none may be held out; one is always trained on.
    """
    count = min(len(pairs.rows) - 1, round(share * len(pairs.rows)))

    def place(row: Row) -> str:
        return sha256(f"{seed}/{row['prompt_id']}".encode()).hexdigest()

    chosen = {id(row) for row in sorted(pairs.rows, key=place)[:count]}
    return (
        replace(pairs, rows=[row for row in pairs.rows if id(row) not in chosen]),
        [row for row in pairs.rows if id(row) in chosen],
    )


def accuracies(policy: Policy, model: Any, trained: Sequence[Row], held: Sequence[Row], max_pixels: int) -> Row:
    """{pairs, accuracy, trained_accuracy}: of the held-out pairs, and of as many that were trained on."""
    step = max(1, len(trained) // len(held))
    return {
        "pairs": len(held),
        "accuracy": told_apart(policy, model, held, max_pixels),
        "trained_accuracy": told_apart(policy, model, trained[::step][: len(held)], max_pixels),
    }


@torch.no_grad()
def told_apart(policy: Policy, model: Any, rows: Sequence[Row], max_pixels: int) -> float:
    """Share of pairs with (log p - log r)(chosen) > (log p - log r)(rejected), r the reference (DPO's reward)."""
    collator = PairCollator(policy, max_pixels)
    alike = replace(policy, model=model.eval())
    right = 0
    for row in rows:
        batch = collator([row])
        counts = batch["completion_mask"][:, 1:].sum(-1).tolist()
        own = [float(part.double().sum()) for part in likelihoods(alike, batch).split(counts)]
        with _reference(model):
            theirs = [float(part.double().sum()) for part in likelihoods(alike, batch).split(counts)]
        right += (own[0] - theirs[0]) > (own[1] - theirs[1])
    return right / len(rows)


@contextmanager
def _reference(model: Any) -> Iterator[None]:
    """The model as training began: its adapter off, or the frozen copy of it on."""
    if REFERENCE not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    model.set_adapter(REFERENCE)
    try:
        yield
    finally:
        model.set_adapter(TRAINED)
