"""The next sentences of nodes: many nodes at once, their rows coming and going so that the batch stays full."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from csr_core.config import GenerateSettings
from csr_core.policy import Policy
from csr_core.search.beaming import BeamSearches
from csr_core.search.drafts import Samples
from csr_core.search.jobs import Job, Sentence
from csr_core.search.prefixes import Prefixes
from csr_core.search.sentences import SentenceRule


class Expander:
    """Grows nodes: `add` jobs at any time, and `step` until none is left.

    Sentences that end leave the batch, and jobs that wait enter it. How a sentence is written, by seeded sampling or by
    diverse group beam search, is `Samples`' or `BeamSearches`' to say.
    """

    def __init__(self, policy: Policy, settings: GenerateSettings, rule: SentenceRule, prefixes: Prefixes) -> None:
        self.policy, self.settings, self.rule, self.prefixes = policy, settings, rule, prefixes
        self.batch_size = settings.batch_size or 1  # nodes grown together; `Grower` sets it
        kind = Samples if settings.method == "sample" else BeamSearches
        self._writing: Samples | BeamSearches = kind(policy, settings, rule)
        self._queue: deque[Job] = deque()
        self._decoder: Any = None

    @property
    def hungry(self) -> bool:
        """Less than half of the batch is taken, and no job waits."""
        return not self._queue and 2 * self._writing.sentences < self._most

    @property
    def _most(self) -> int:
        """Sentences under way at most."""
        return self.batch_size * self.settings.width

    def add(self, jobs: Iterable[Job]) -> None:
        self._queue.extend(jobs)

    def step(self) -> list[tuple[Job, list[Sentence]]]:
        """One token for each sentence under way; returns the jobs whose sentences are all there, siblings in order."""
        self._enter()
        finished, parents, tokens = self._writing.step(self._decoder)
        if len(parents):
            self._decoder.advance(parents, tokens)
        else:
            self._decoder = None
        return finished

    def _enter(self) -> None:
        """Let waiting jobs in as long as their sentences have room, and at once, so that joining is done seldom."""
        room = (self._most - self._writing.sentences) // self.settings.width
        if not self._queue or (8 * room < self.batch_size and room < len(self._queue)):
            return
        new = [self._queue.popleft() for _ in range(min(room, len(self._queue)))]
        first = len(self._decoder) if self._decoder is not None else 0
        self._decoder = self._begin(new, self._decoder)
        self._writing.enter(new, range(first, first + len(new)))

    def _begin(self, jobs: list[Job], decoder: Any = None) -> Any:
        """Rows for the jobs, below those of `decoder`, or in a new one; returns it."""
        unread = [job for job in jobs if job.state is None]
        read = iter(self.prefixes.read([job.prompt for job in unread], [job.written for job in unread]))
        if decoder is None:
            decoder = self.prefixes.decoder(self._most, self.settings.max_sentence_tokens + 1)
        decoder.admit(self.prefixes.catch_up([job.state or next(read) for job in jobs]))
        return decoder
