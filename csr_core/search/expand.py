"""The next sentences of a batch of nodes: by seeded sampling, or by diverse group beam search."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from csr_core.config import GenerateSettings
from csr_core.policy import Policy, PromptInputs
from csr_core.search.beams import DiverseBeams, Hypothesis
from csr_core.search.decoding import NodeDecoder, Prefixes
from csr_core.search.sampling import Stream, allowed_weights, draw
from csr_core.search.sentences import SentenceRule, TokenRule


@dataclass(frozen=True)
class Job:
    """A node to grow. `streams`: one for each sentence to sample (unused by beams)."""

    prompt: PromptInputs
    written: tuple[int, ...]
    streams: tuple[Stream, ...] = ()

    @property
    def length(self) -> int:
        return self.prompt.length + len(self.written)


@dataclass(frozen=True)
class Sentence:
    """A next sentence. The token that ends the turn is not among `ids`; `final` says that it came.

    log_likelihood: sum of log p of `ids` (nats) under the model's full softmax at temperature 1, no penalty.
    score: the search's own figure for this sentence alone. padding: tokens by which the longest sibling is longer.
    """

    ids: tuple[int, ...]
    log_likelihood: float
    score: float
    final: bool
    padding: int = 0


@dataclass
class _Draft:
    """A sentence that is being sampled."""

    stream: Stream
    row: int
    ids: tuple[int, ...] = ()
    log_likelihood: float = 0.0
    waits: bool = False  # a sentence may end here; the next token decides
    final: bool = False


@dataclass
class Expander:
    """What all expansions of a run share."""

    policy: Policy
    settings: GenerateSettings
    rule: SentenceRule
    prefixes: Prefixes
    _forbidden: dict[bool, Bool[Tensor, " vocab"]] = field(default_factory=dict)

    @property
    def as_authors(self) -> bool:
        """Beams under the token rule are the authors' procedure, in which the end of a turn is a token like others."""
        return self.settings.method == "diverse_beam" and self.settings.sentence_end == "token"

    @property
    def _device(self) -> torch.device:
        device = self.policy.device
        return torch.device("cpu") if device.type == "mps" else device

    def expand(self, jobs: Sequence[Job]) -> list[list[Sentence]]:
        """Each job's next sentences, siblings in order: as drawn, or best beam first."""
        if self.settings.method == "sample":
            return self._sample(jobs)
        return [self._siblings(found) for found in self.hypotheses(jobs)]

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

    def _decoder(self, jobs: Sequence[Job]) -> NodeDecoder:
        return NodeDecoder(self.prefixes, [job.prompt for job in jobs], [job.written for job in jobs])

    def _sample(self, jobs: Sequence[Job]) -> list[list[Sentence]]:
        """Equal sentences under way share a row: they fork where they first differ."""
        decoder = self._decoder(jobs)
        drafts = [[_Draft(stream, row) for stream in job.streams] for row, job in enumerate(jobs)]
        live = [draft for siblings in drafts for draft in siblings]
        for step in range(self.settings.max_sentence_tokens + 1):
            logits = decoder.logits
            mask = self.forbidden(logits.shape[-1], step == 0)[None]
            rows = torch.tensor([draft.row for draft in live], device=self._device)
            numbers = [draft.stream.uniform(step) for draft in live]
            uniforms = torch.tensor(numbers, dtype=torch.float64, device=self._device)
            tokens = draw(allowed_weights(logits, self.settings.temperature, mask), rows, uniforms)
            gains = logits.double().log_softmax(-1)[rows, tokens]
            live = [
                draft
                for draft, token, gain in zip(live, tokens.tolist(), gains.tolist(), strict=True)
                if self._take(draft, token, gain)
            ]
            if not live:
                break
            keys, places = torch.unique(
                torch.tensor([draft.row * logits.shape[-1] + draft.ids[-1] for draft in live]), return_inverse=True
            )
            for draft, row in zip(live, places.tolist(), strict=True):
                draft.row = row
            decoder.advance(keys // logits.shape[-1], keys % logits.shape[-1])
        return [[self._sampled(draft) for draft in siblings] for siblings in drafts]

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

    def _sampled(self, draft: _Draft) -> Sentence:
        mean = draft.log_likelihood / len(draft.ids)
        return Sentence(draft.ids, draft.log_likelihood, mean, draft.final)

    def hypotheses(self, jobs: Sequence[Job]) -> list[list[Hypothesis]]:
        """Each job's hypotheses of the diverse beam search, best first."""
        settings, policy, decoder = self.settings, self.policy, self._decoder(jobs)
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
