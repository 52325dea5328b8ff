"""How likely answers are under the model that gave them and under the base: language quality, and distance (KL)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from csr_core.config import Settings
from csr_core.dpo.pairs import answer_ids
from csr_core.errors import InputError
from csr_core.evaluation.answers import Ask, Encoder
from csr_core.evaluation.statistics import Counts
from csr_core.policy import Policy, collate
from csr_core.policy.adapters import is_adapted
from csr_core.policy.loading import load_policy
from csr_core.progress import Progress

TOGETHER = 8  # answers in one pass
NAMES = ("tokens", "log_likelihood", "base_log_likelihood")


def answer_likelihoods(
    settings: Settings, encoder: Encoder, adapted: bool, asks: Sequence[Ask], answers: Sequence[str | None], name: str
) -> list[dict[str, float] | None]:
    """NAMES of each answer: its tokens, the end of the turn included, and log p (nats) of them under both models.

    `adapted`: the encoder's policy is not the base itself. None for answers that are not there or cannot be read.
    """
    policy = encoder.policy
    places = [place for place, answer in enumerate(answers) if answer]
    told = [asks[place] for place in places], [str(answers[place]) for place in places]
    own = _log_likelihoods(policy, encoder, *told, name)
    base = own
    if adapted:
        with _base(settings, policy) as other:
            base = _log_likelihoods(other, encoder, *told, name)
    found: list[dict[str, float] | None] = [None] * len(answers)
    for place, mine, theirs in zip(places, own, base, strict=True):
        if mine is not None and theirs is not None:
            found[place] = dict(zip(NAMES, (mine[0], mine[1], theirs[1]), strict=True))
    return found


@contextmanager
def _base(settings: Settings, policy: Policy) -> Iterator[Policy]:
    """The model that the run started from: the policy with its adapter off where that is it, else loaded beside it."""
    if is_adapted(policy.model) and settings.model.adapter is None:
        with policy.model.disable_adapter():
            yield policy
        return
    yield load_policy(settings.model, Path(settings.model.adapter) if settings.model.adapter else None)


@torch.inference_mode()
def _log_likelihoods(
    policy: Policy, encoder: Encoder, asks: Sequence[Ask], answers: Sequence[str], name: str
) -> list[tuple[int, float] | None]:
    """(tokens, log p of them) of each answer, those of like length together."""
    found: list[tuple[int, float] | None] = [None] * len(asks)
    ids: dict[int, list[int]] = {}
    for place, (ask, answer) in enumerate(zip(asks, answers, strict=True)):
        try:
            ids[place] = answer_ids(policy, ask.prompt, answer)
        except InputError:
            continue
    order = sorted(ids, key=lambda place: len(ids[place]))
    with Progress(f"{name}: likelihoods", len(order), "answers", counts=False) as bar:
        for start in range(0, len(order), TOGETHER):
            batch = order[start : start + TOGETHER]
            prompts = [encoder.encode(asks[place].image, asks[place].prompt) for place in batch]
            inputs = collate(prompts, [ids[place] for place in batch], policy.pad_id, policy.device)
            logits = policy.model(**inputs, use_cache=False).logits
            for row, place in enumerate(batch):
                told = torch.tensor(ids[place], device=logits.device)
                gains = logits[row, -len(told) - 1 : -1].float().log_softmax(-1).gather(1, told[:, None])
                found[place] = (len(told), float(gains.double().sum()))
            bar.advance(len(batch))
    return found


def likelihood_counts(row: Mapping[str, Any]) -> Counts:
    """The parts of a caption row in two figures, empty where it has no NAMES.

    `base_nll`: nats that a token of the answers costs the base. `kl`: mean over tokens of log p(y) - log base(y), whose
    mean over y of p is KL(p || base); these answers are p's greedy ones, not drawn from it, so what p writes seldom is
    left out of this estimate.
    """
    if not all(isinstance(row.get(name), int | float) for name in NAMES):
        return {}
    tokens, own, base = (float(row[name]) for name in NAMES)
    return {"base_nll": (-base, tokens), "kl": (own - base, tokens)}
