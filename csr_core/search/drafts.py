"""Sentences by seeded sampling."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from csr_core.config import GenerateSettings
from csr_core.policy import Policy
from csr_core.search.decoding import State
from csr_core.search.jobs import Job, Sentence
from csr_core.search.sampling import Drawer, Stream
from csr_core.search.sentences import SentenceRule


@dataclass
class _Draft:
    """A sentence that is being sampled."""

    job: Job
    stream: Stream
    row: int
    ids: tuple[int, ...] = ()
    log_likelihood: float = 0.0
    waits: bool = False  # a sentence may end here; the next token decides
    final: bool = False
    over: bool = False
    state: State | None = None


class Samples:
    """The sentences under way. Equal ones share a row of the decoder: they fork where they first differ."""

    def __init__(self, policy: Policy, settings: GenerateSettings, rule: SentenceRule) -> None:
        self.policy, self.settings, self.rule = policy, settings, rule
        self._live: list[_Draft] = []
        self._drafts: dict[Job, list[_Draft]] = {}  # of the jobs under way

    @property
    def sentences(self) -> int:
        return len(self._live)

    def enter(self, jobs: Sequence[Job], rows: Iterable[int]) -> None:
        """Begin the sentences of these jobs, which stand at these rows of the decoder."""
        for row, job in zip(rows, jobs, strict=True):
            self._drafts[job] = [_Draft(job, stream, row) for stream in job.streams]
            self._live += self._drafts[job]

    def step(
        self, decoder: Any
    ) -> tuple[list[tuple[Job, list[Sentence]]], list[int] | Int[Tensor, " next"], Int[Tensor, " next"]]:
        """One token for each; returns the jobs that are done, and how the decoder has to go on."""
        logits = decoder.logits  # asked for once: it may be a copy
        drawer = Drawer(logits, self.settings.temperature, self.policy.suppressed_ids)
        # A sentence does not begin with the end of the turn: that was decided when the sentence before it ended.
        drawer.forbid(sorted({draft.row for draft in self._live if not draft.ids}), sorted(self.policy.end_ids))
        device = logits.device
        numbers = [draft.stream.uniform(len(draft.ids)) for draft in self._live]
        rows = torch.tensor([draft.row for draft in self._live], device=device)
        tokens, gains = drawer.draw(rows, torch.tensor(numbers, dtype=torch.float64, device=device))
        del drawer, logits  # large tables
        live, states, finished = [], {}, []
        for draft, token, gain in zip(self._live, tokens.tolist(), gains.tolist(), strict=True):
            if self._take(draft, token, gain):
                live.append(draft)
                continue
            draft.over = True
            if not draft.final and not draft.job.last:
                if draft.row not in states:
                    states[draft.row] = decoder.state(draft.row)
                draft.state = states[draft.row]
            if all(sibling.over for sibling in self._drafts[draft.job]):
                finished.append((draft.job, [_sentence(one) for one in self._drafts.pop(draft.job)]))
        self._live = live
        return finished, *self._continuations()

    def _take(self, draft: _Draft, token: int, gain: float) -> bool:
        """Give a draft its next token; False when its sentence is over (the token is then dropped)."""
        full = len(draft.ids) == self.settings.max_sentence_tokens
        if token in self.policy.end_ids:
            draft.final = True
            return False
        if full or (draft.waits and not self.rule.goes_on(draft.ids, token)):
            return False
        draft.ids += (token,)
        draft.log_likelihood += gain
        draft.waits = (draft.waits or bool(self.rule.could_end[token])) and self.rule.waits(draft.ids)
        return True

    def _continuations(self) -> tuple[list[int], Int[Tensor, " next"]]:
        """A row for each distinct continuation: the row it continues, and its token."""
        places: dict[tuple[int, int], int] = {}
        for draft in self._live:
            draft.row = places.setdefault((draft.row, draft.ids[-1]), len(places))
        return [row for row, _ in places], torch.tensor([token for _, token in places], dtype=torch.long)


def _sentence(draft: _Draft) -> Sentence:
    mean = draft.log_likelihood / len(draft.ids)
    return Sentence(draft.ids, draft.log_likelihood, mean, draft.final, state=draft.state)
