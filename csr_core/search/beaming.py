"""Sentences by diverse group beam search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from csr_core.config import GenerateSettings
from csr_core.policy import Policy
from csr_core.search.beams import DiverseBeams, Hypothesis
from csr_core.search.jobs import Job, Sentence
from csr_core.search.sentences import SentenceRule, TokenRule


class BeamSearches:
    """The beam searches under way, one a job, each in its own time."""

    def __init__(self, policy: Policy, settings: GenerateSettings, rule: SentenceRule) -> None:
        self.policy, self.settings, self.rule = policy, settings, rule
        # Beams under the token rule are the authors' procedure, in which the end of a turn is a token like others.
        self.as_authors = isinstance(rule, TokenRule)
        # float64 sums, which MPS has not: the decoder's logits are on the CPU there.
        self._device = torch.device("cpu") if policy.device.type == "mps" else policy.device
        self._beams = DiverseBeams(
            settings.beam_groups,
            settings.width // settings.beam_groups,
            settings.diversity_penalty,
            [rule.period] if isinstance(rule, TokenRule) else policy.end_ids,
            policy.pad_id,
            settings.max_sentence_tokens,
            self._device,
        )
        self._jobs: list[Job] = []  # of each problem
        self._new: list[int] = []  # rows of the jobs that have not begun
        self._waiting: list[int] = []  # rows of the last step with which a sentence may end; the next token decides
        self._forbidden: dict[bool, Bool[Tensor, " vocab"]] = {}

    @property
    def sentences(self) -> int:
        return len(self._jobs) * self.settings.width

    def enter(self, jobs: Sequence[Job], rows: Iterable[int]) -> None:
        """Begin the searches of these jobs, which stand at these rows of the decoder."""
        self._new = list(rows)
        self._beams.add(self._new)
        self._jobs += jobs

    def step(
        self, decoder: Any
    ) -> tuple[list[tuple[Job, list[Sentence]]], list[int] | Int[Tensor, " next"], Int[Tensor, " next"]]:
        """One token for each; returns the jobs that are done, and how the decoder has to go on."""
        found, parents, tokens = self.hypotheses(decoder)
        return [(job, self._siblings(of_job)) for job, of_job in found], parents, tokens

    def hypotheses(
        self, decoder: Any
    ) -> tuple[list[tuple[Job, list[Hypothesis]]], list[int] | Int[Tensor, " next"], Int[Tensor, " next"]]:
        """As `step`; each job's hypotheses, best first."""
        logits = decoder.logits
        if not self.as_authors:
            self._close_ended(logits)
        finished = self._take_out(decoder, self._at_limit(logits))
        if not self._jobs:
            return finished, [], torch.zeros(0, dtype=torch.long)
        # Probabilities are the full softmax's, as in the original; what must not be written is only never taken.
        log_p = logits.log_softmax(-1).masked_fill(self.forbidden(logits.shape[-1], False), float("-inf"))
        if self._new:
            beginning = torch.tensor(self._new, device=self._device)
            log_p[beginning] = log_p[beginning].masked_fill(self.forbidden(logits.shape[-1], True), float("-inf"))
        parents, tokens = self._beams.step(log_p)
        self._new = []
        self._keep_states(decoder)
        finished += self._take_out(decoder, dict.fromkeys(self._beams.ended(), ()))
        self._waiting = [] if self.as_authors else self._may_end(tokens, set(self._waiting), parents)
        return finished, parents, tokens

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

    def _likeliest(self, logits: Float[Tensor, "rows vocab"]) -> Tensor:
        return logits.masked_fill(self.forbidden(logits.shape[-1], False), float("-inf")).argmax(-1)

    def _may_end(self, tokens: Tensor, before: set[int], parents: Tensor) -> list[int]:
        """Rows with which a sentence may end; those at the limit end anyhow."""
        places, full = self._beams.open_beams().tolist(), self._beams.at_limit().tolist()
        return [
            row
            for row, (token, parent) in enumerate(zip(tokens.tolist(), parents.tolist(), strict=True))
            if (self.rule.could_end[token] or parent in before)
            and not full[places[row][0]]
            and self.rule.waits(self._beams.ids(*places[row]))
        ]

    def _close_ended(self, logits: Float[Tensor, "rows vocab"]) -> None:
        """Close the waiting beams whose likeliest next token does not belong to their sentence."""
        if not self._waiting:
            return
        likeliest, places = self._likeliest(logits).tolist(), self._beams.open_beams().tolist()
        over = [
            row
            for row in self._waiting
            if likeliest[row] in self.policy.end_ids
            or not self.rule.goes_on(self._beams.ids(*places[row]), likeliest[row])
        ]
        self._beams.close(over, [likeliest[row] in self.policy.end_ids for row in over])

    def _at_limit(self, logits: Float[Tensor, "rows vocab"]) -> dict[int, list[bool]]:
        """The problems at their limit: for each of their open rows whether the response ends there."""
        full = torch.nonzero(self._beams.at_limit())[:, 0].tolist()
        if not full:
            return {}
        ends = [False] * len(logits)
        if not self.as_authors:
            ends = [token in self.policy.end_ids for token in self._likeliest(logits).tolist()]
        found: dict[int, list[bool]] = {problem: [] for problem in full}
        for row, (problem, _, _) in enumerate(self._beams.open_beams().tolist()):
            if problem in found:
                found[problem].append(ends[row])
        return found

    def _take_out(self, decoder: Any, ends: Mapping[int, Sequence[bool]]) -> list[tuple[Job, list[Hypothesis]]]:
        """Finish and forget these problems."""
        finished = [(self._jobs[problem], self._beams.finish(problem, final)) for problem, final in ends.items()]
        self._keep_states(decoder)
        if ends:
            self._beams.remove(ends)
            self._jobs = [job for problem, job in enumerate(self._jobs) if problem not in ends]
        return finished

    def _keep_states(self, decoder: Any) -> None:
        """Where the model stands after the hypotheses that are new, while their rows are there."""
        for problem, one in self._beams.fresh:
            if not self._jobs[problem].last and not self._ends_turn(one):
                state = decoder.state(one.row)
                one.state = state if one.end is None or state is None else replace(state, unread=(one.end,))
        self._beams.fresh = []

    def _ends_turn(self, one: Hypothesis) -> bool:
        if self.as_authors:
            return not self.policy.end_ids.isdisjoint(one.ids)
        return one.final or one.end is not None

    def _siblings(self, found: Sequence[Hypothesis]) -> list[Sentence]:
        """Sentences from finished hypotheses; the authors' keep the full stop, others do not keep the turn's end."""
        out = []
        for one in found:
            ids, gain = one.ids, one.log_likelihood
            if self.as_authors and one.end is not None:
                ids, gain = (*ids, one.end), gain + one.end_log_p
            out.append(Sentence(ids, gain, one.score, self._ends_turn(one), 0, one.state))
        longest = max(len(one.ids) for one in out)
        return [replace(one, padding=longest - len(one.ids)) for one in out]
