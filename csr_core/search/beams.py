"""Diverse group beam search on logits alone, many problems at once (removed from transformers 5).

The procedure is the one of transformers 4 with `num_beam_groups`, as the authors' code uses it: the diversity penalty
stays in the running sums, ended hypotheses are compared by sum / generated length, and a token that ends a hypothesis
is never penalised. One problem is one node of a sentence tree; batching changes nothing in any problem's result.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

UNREACHED = -1e9  # the sum of beams 1..B-1 before the first step, so that one prompt does not give B equal beams


@dataclass(frozen=True)
class Hypothesis:
    """One finished sequence of generated tokens.

    ids: without the ending token. score: (sum of log p - sum of penalties) / generated length, the ending token counted
    in both. log_likelihood: of `ids` alone, nats, penalties left out. end, end_log_p: the ending token and its log p,
    if one was taken (otherwise the limit cut the sequence, or the caller closed it). final: the caller's word on a
    sequence without an ending token, that the whole response ends with it.
    """

    ids: tuple[int, ...]
    score: float
    log_likelihood: float
    group: int
    end: int | None = None
    end_log_p: float = 0.0
    final: bool = False


class DiverseBeams:
    """The state of P problems of G groups of B beams; forward passes are the caller's.

    Repeat `parents, tokens = step(log_p)` with one row of log-probabilities for each row that the previous step gave
    (at first: one row a problem), until it is `over`; then `finish()`.

    Args:
        end_ids: tokens that end a hypothesis. pad: what ended groups count as choosing (as in the original).
        max_new: limit of generated tokens, the ending one included. device: where the log-probabilities come from.
    """

    def __init__(
        self,
        problems: int,
        groups: int,
        beams: int,
        penalty: float,
        end_ids: Iterable[int],
        pad: int,
        max_new: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.problems, self.groups, self.beams = problems, groups, beams
        self.penalty, self.pad, self.max_new = penalty, pad, max_new
        self._double: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.end_ids = torch.tensor(sorted(end_ids), device=device)
        shape = (problems, groups, beams)
        self.sums = torch.full(shape, UNREACHED, **self._double)
        self.sums[..., 0] = 0.0
        self.plain = torch.zeros(shape, **self._double)  # sums without penalties
        self.sequences = torch.zeros(*shape, 0, dtype=torch.long, device=device)
        self.done = torch.zeros(problems, groups, dtype=torch.bool, device=device)
        self.hypotheses: list[list[list[Hypothesis]]] = [[[] for _ in range(groups)] for _ in range(problems)]
        self.worst = torch.full((problems, groups), 1e9, **self._double)
        self.full = torch.zeros(problems, groups, dtype=torch.bool, device=device)  # B hypotheses found
        # row_of[p, g, b]: the row of the caller's logits that belongs to a beam; at first its problem's row.
        self.row_of = torch.arange(problems, device=device)[:, None, None].expand(shape).clone()

    @property
    def length(self) -> int:
        """Tokens generated so far by the beams that are still open."""
        return int(self.sequences.shape[-1])

    @property
    def over(self) -> bool:
        """No further step is due."""
        return self.length >= self.max_new or bool(self.done.all())

    def open_beams(self) -> Int[Tensor, "rows 3"]:
        """(problem, group, beam) of each row that the last `step` gave, in the order of the rows."""
        if self.length == 0:
            raise ValueError("before the first step a row belongs to a problem, not to a beam")
        return (~self.done)[..., None].expand(self.sums.shape).nonzero()

    def close(self, rows: Iterable[int], final: Iterable[bool]) -> None:
        """Make open beams into hypotheses as they are, without an ending token (the caller saw that a sentence ended).

        `rows` are rows of the last step; their logits still have to be in the next `step`, and are not looked at.
        """
        places = self.open_beams().tolist()
        for row, ends in zip(rows, final, strict=True):
            p, g, b = places[row]
            if self.sums[p, g, b] > UNREACHED / 2:
                self._add(p, g, b, float(self.sums[p, g, b]) / self.length, final=ends)
            self.sums[p, g, b] = float("-inf")

    def step(self, log_p: Float[Tensor, "rows vocab"]) -> tuple[Int[Tensor, " next"], Int[Tensor, " next"]]:
        """One step of all problems that are not done.

        Returns: for each row of the next forward pass the row of this one that it continues, and its token.
        """
        log_p = log_p.double()
        step, vocab = self.length + 1, log_p.shape[-1]
        tokens = torch.full_like(self.row_of, self.pad)
        origin = torch.arange(self.beams, device=log_p.device).expand_as(self.row_of).clone()
        taken = torch.zeros(self.problems, vocab, **self._double)  # by earlier groups in this step
        sums, plain = self.sums.clone(), self.plain.clone()
        for g in range(self.groups):
            taken[self.done[:, g], self.pad] += self.beams
            live = (~self.done[:, g]).nonzero()[:, 0]
            if not len(live):
                continue
            rows = log_p[self.row_of[live, g]]
            value = rows - self.penalty * taken[live, None] + self.sums[live, g, :, None]
            k = min(self.beams * (1 + len(self.end_ids)), self.beams * vocab)
            top, flat = value.flatten(1).topk(k)
            beam, token = flat // vocab, flat % vocab
            ends = torch.isin(token, self.end_ids)
            gain = rows.flatten(1).gather(1, flat)
            self._end(g, live, ends, top, gain, beam, token, step)
            # A group is done when no open beam can beat its worst hypothesis at this length; or when none is left open.
            bound = self.full[live, g] & (self.worst[live, g] >= top[:, 0] / step)
            self.done[live, g] = bound | top[:, 0].isneginf()
            first = ends.int().argsort(dim=1, stable=True)[:, : self.beams]
            sums[live, g] = top.gather(1, first)
            origin[live, g], tokens[live, g] = beam.gather(1, first), token.gather(1, first)
            plain[live, g] = self.plain[live, g].gather(1, origin[live, g]) + gain.gather(1, first)
            counts = (~sums[live, g].isneginf()).double()
            taken.index_put_((live[:, None].expand_as(first), tokens[live, g]), counts, accumulate=True)
        return self._advance(sums, plain, origin, tokens)

    def _advance(self, sums: Tensor, plain: Tensor, origin: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        parents = self.row_of.gather(2, origin)
        history = self.sequences.gather(2, origin[..., None].expand(*origin.shape, self.length))
        self.sums, self.plain = sums, plain
        self.sequences = torch.cat([history, tokens[..., None]], dim=-1)
        keep = (~self.done)[..., None].expand(tokens.shape)
        self.row_of = torch.zeros_like(parents)
        self.row_of[keep] = torch.arange(int(keep.sum()), device=keep.device)
        return parents[keep], tokens[keep]

    def _end(
        self,
        g: int,
        live: Int[Tensor, " live"],
        ends: Bool[Tensor, "live k"],
        top: Float[Tensor, "live k"],
        gain: Float[Tensor, "live k"],
        beam: Int[Tensor, "live k"],
        token: Int[Tensor, "live k"],
        step: int,
    ) -> None:
        """Hypotheses from the ending tokens among the best B candidates of group `g`."""
        hits = ends[:, : self.beams] & ~top[:, : self.beams].isneginf()
        for row, rank in hits.nonzero().tolist():
            p, b = int(live[row]), int(beam[row, rank])
            end = (int(token[row, rank]), float(gain[row, rank]))
            self._add(p, g, b, float(top[row, rank]) / step, end)

    def _add(
        self, p: int, g: int, b: int, score: float, end: tuple[int | None, float] = (None, 0.0), final: bool = False
    ) -> None:
        """Keep beam `b` as a hypothesis if it is among its group's B best so far."""
        kept = self.hypotheses[p][g]
        if len(kept) < self.beams or score > float(self.worst[p, g]):
            ids, plain = tuple(self.sequences[p, g, b].tolist()), float(self.plain[p, g, b])
            kept.append(Hypothesis(ids, score, plain, g, *end, final))
            if len(kept) > self.beams:
                kept.remove(min(kept, key=lambda one: one.score))
                self.worst[p, g] = min(one.score for one in kept)
            else:
                self.worst[p, g] = min(score, float(self.worst[p, g]))
        self.full[p, g] = len(kept) == self.beams

    def finish(self, final: Bool[Tensor, " rows"] | None = None) -> list[list[Hypothesis]]:
        """Each problem's best G * B hypotheses, best first; open beams compete as they are.

        `final` says for the open rows whether the response ends with them.
        """
        for row, (p, g, b) in enumerate(self.open_beams().tolist()):
            if not self.sums[p, g, b].isneginf():
                ends = bool(final[row]) if final is not None else False
                self._add(p, g, b, float(self.sums[p, g, b]) / self.length, final=ends)
        pools = [[one for group in groups for one in group] for groups in self.hypotheses]
        # Ascending and from the end: among equal scores the later group and the later addition come first.
        return [sorted(pool, key=lambda one: one.score)[::-1][: self.groups * self.beams] for pool in pools]
