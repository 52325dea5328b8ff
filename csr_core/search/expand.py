"""The next sentences of nodes: by seeded sampling, or by diverse group beam search."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from csr_core.config import GenerateSettings
from csr_core.policy import Policy, PromptInputs
from csr_core.search.beams import DiverseBeams, Hypothesis
from csr_core.search.decoding import Prefixes, State
from csr_core.search.sampling import Drawer, Stream
from csr_core.search.sentences import SentenceRule, TokenRule


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

    @property
    def length(self) -> int:
        return self.prompt.length + len(self.written)


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


class Expander:
    """Grows nodes, many at once: `add` jobs at any time, and `step` until none is left.

    Sentences that end leave the batch, and jobs that wait enter it, so that it stays full.
    """

    def __init__(self, policy: Policy, settings: GenerateSettings, rule: SentenceRule, prefixes: Prefixes) -> None:
        self.policy, self.settings, self.rule, self.prefixes = policy, settings, rule, prefixes
        self.batch_size = settings.batch_size or 1  # nodes grown together; `Grower` sets it
        self._queue: deque[Job] = deque()
        self._live: list[_Draft] = []
        self._drafts: dict[Job, list[_Draft]] = {}  # of the jobs under way
        self._decoder: Any = None
        self._forbidden: dict[bool, Bool[Tensor, " vocab"]] = {}

    @property
    def as_authors(self) -> bool:
        """Beams under the token rule are the authors' procedure, in which the end of a turn is a token like others."""
        return self.settings.method == "diverse_beam" and self.settings.sentence_end == "token"

    @property
    def _device(self) -> torch.device:
        device = self.policy.device
        return torch.device("cpu") if device.type == "mps" else device

    @property
    def hungry(self) -> bool:
        """Less than half of the batch is taken, and no job waits."""
        return not self._queue and 2 * len(self._live) < self._most

    @property
    def _most(self) -> int:
        """Sentences under way at most."""
        return self.batch_size * self.settings.width

    def add(self, jobs: Iterable[Job]) -> None:
        self._queue.extend(jobs)

    def step(self) -> list[tuple[Job, list[Sentence]]]:
        """One token for each sentence under way; returns the jobs whose sentences are all there, siblings in order.

        Beam searches are carried through, as many as fit into a batch.
        """
        if self.settings.method == "sample":
            return self._sample_step()
        jobs = sorted(self._queue, key=lambda job: -job.length)  # the padding of a batch is wasted work
        batch, self._queue = jobs[: self.batch_size], deque(jobs[self.batch_size :])
        return [(job, self._siblings(found)) for job, found in zip(batch, self.hypotheses(batch), strict=True)]

    def forbidden(self, vocab: int, beginning: bool) -> Bool[Tensor, " vocab"]:
        """Tokens never written. A sentence does not begin with the end of the turn: whether the turn ends there was
        decided when the sentence before it ended."""
        if beginning not in self._forbidden:
            mask = torch.zeros(vocab, dtype=torch.bool, device=self._device)
            mask[list(self.policy.suppressed_ids)] = True
            if beginning and not self.as_authors:
                mask[list(self.policy.end_ids)] = True
            self._forbidden[beginning] = mask
        return self._forbidden[beginning]

    def _begin(self, jobs: Sequence[Job], decoder: Any = None) -> Any:
        """Rows for the jobs, below those of `decoder`, or in a new one; returns it."""
        unread = [job for job in jobs if job.state is None]
        read = iter(self.prefixes.read([job.prompt for job in unread], [job.written for job in unread]))
        if decoder is None:
            decoder = self.prefixes.decoder(self._most, self.settings.max_sentence_tokens + 1)
        decoder.admit([job.state or next(read) for job in jobs])
        return decoder

    def _sample_step(self) -> list[tuple[Job, list[Sentence]]]:
        """Equal sentences under way share a row: they fork where they first differ."""
        self._enter()
        drawer = Drawer(self._decoder.logits, self.settings.temperature, self.policy.suppressed_ids)
        drawer.forbid(sorted({draft.row for draft in self._live if not draft.ids}), sorted(self.policy.end_ids))
        numbers = [draft.stream.uniform(len(draft.ids)) for draft in self._live]
        rows = torch.tensor([draft.row for draft in self._live], device=self._device)
        tokens, gains = drawer.draw(rows, torch.tensor(numbers, dtype=torch.float64, device=self._device))
        del drawer  # its tables are as large as the logits
        live, states, finished = [], {}, []
        for draft, token, gain in zip(self._live, tokens.tolist(), gains.tolist(), strict=True):
            if self._take(draft, token, gain):
                live.append(draft)
                continue
            draft.over = True
            if not draft.final and not draft.job.last:
                if draft.row not in states:
                    states[draft.row] = self._decoder.state(draft.row)
                draft.state = states[draft.row]
            if all(sibling.over for sibling in self._drafts[draft.job]):
                finished.append((draft.job, [_sampled(one) for one in self._drafts.pop(draft.job)]))
        self._live = live
        self._advance()
        return finished

    def _enter(self) -> None:
        """Let waiting jobs in as long as their sentences have room, and at once, so that joining is done seldom."""
        room = (self._most - len(self._live)) // self.settings.width
        if not self._queue or (8 * room < self.batch_size and room < len(self._queue)):
            return
        new = [self._queue.popleft() for _ in range(min(room, len(self._queue)))]
        first = len(self._decoder) if self._decoder is not None else 0
        self._decoder = self._begin(new, self._decoder)
        for row, job in enumerate(new, first):
            self._drafts[job] = [_Draft(job, stream, row) for stream in job.streams]
            self._live += self._drafts[job]

    def _advance(self) -> None:
        """Give each distinct continuation a row."""
        if not self._live:
            self._decoder = None
            return
        places: dict[tuple[int, int], int] = {}
        for draft in self._live:
            draft.row = places.setdefault((draft.row, draft.ids[-1]), len(places))
        self._decoder.advance([row for row, _ in places], torch.tensor([token for _, token in places]))

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

    def hypotheses(self, jobs: Sequence[Job]) -> list[list[Hypothesis]]:
        """Each job's hypotheses of the diverse beam search, best first."""
        settings, policy, decoder = self.settings, self.policy, self._begin(jobs)
        ends = [self.rule.period] if self.as_authors and isinstance(self.rule, TokenRule) else policy.end_ids
        beams = DiverseBeams(
            len(jobs),
            settings.beam_groups,
            settings.width // settings.beam_groups,
            settings.diversity_penalty,
            ends,
            policy.pad_id,
            settings.max_sentence_tokens,
            self._device,
        )
        waiting: list[int] = []
        while True:
            logits = decoder.logits
            if not self.as_authors and beams.length:
                self._close_ended(beams, waiting, logits)
            # Probabilities are the full softmax's, as in the original; what must not be written is only never taken.
            log_p = logits.log_softmax(-1).masked_fill(
                self.forbidden(logits.shape[-1], beams.length == 0), float("-inf")
            )
            parents, tokens = beams.step(log_p)
            waiting = self._waiting(beams, tokens, set(waiting), parents) if not self.as_authors else []
            if beams.over:
                break
            decoder.advance(parents, tokens)
        final = None
        if not self.as_authors and len(tokens):
            decoder.advance(parents, tokens)
            final = torch.isin(
                self._likeliest(decoder.logits), torch.tensor(sorted(policy.end_ids), device=self._device)
            )
        return beams.finish(final)

    def _likeliest(self, logits: Float[Tensor, "rows vocab"]) -> Tensor:
        return logits.masked_fill(self.forbidden(logits.shape[-1], False), float("-inf")).argmax(-1)

    def _waiting(self, beams: DiverseBeams, tokens: Tensor, before: set[int], parents: Tensor) -> list[int]:
        """Rows with which a sentence may end."""
        rows = [
            row
            for row, (token, parent) in enumerate(zip(tokens.tolist(), parents.tolist(), strict=True))
            if self.rule.could_end[token] or parent in before
        ]
        places = beams.open_beams()[rows].tolist()
        return [row for row, (p, g, b) in zip(rows, places, strict=True) if self.rule.waits(_ids(beams, p, g, b))]

    def _close_ended(self, beams: DiverseBeams, waiting: list[int], logits: Float[Tensor, "rows vocab"]) -> None:
        """Close the waiting beams whose likeliest next token does not belong to their sentence."""
        likeliest, places = self._likeliest(logits).tolist(), beams.open_beams().tolist()
        over = [
            row
            for row in waiting
            if likeliest[row] in self.policy.end_ids or not self.rule.goes_on(_ids(beams, *places[row]), likeliest[row])
        ]
        beams.close(over, [likeliest[row] in self.policy.end_ids for row in over])

    def _siblings(self, found: Sequence[Hypothesis]) -> list[Sentence]:
        """Sentences from finished hypotheses; the authors' keep the full stop, others do not keep the turn's end."""
        out = []
        for one in found:
            ids, gain, final = one.ids, one.log_likelihood, one.final
            if self.as_authors and one.end is not None:
                ids, gain = (*ids, one.end), gain + one.end_log_p
            elif one.end is not None:
                final = True
            if self.as_authors:
                final = not self.policy.end_ids.isdisjoint(ids)
            out.append((ids, gain, one.score, final))
        longest = max(len(ids) for ids, *_ in out)
        return [Sentence(ids, gain, score, final, longest - len(ids)) for ids, gain, score, final in out]


def _ids(beams: DiverseBeams, problem: int, group: int, beam: int) -> tuple[int, ...]:
    return tuple(beams.sequences[problem, group, beam].tolist())


def _sampled(draft: _Draft) -> Sentence:
    mean = draft.log_likelihood / len(draft.ids)
    return Sentence(draft.ids, draft.log_likelihood, mean, draft.final, state=draft.state)
