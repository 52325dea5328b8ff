"""Diverse group beam search on logits alone, many problems at once (removed from transformers 5).

The procedure is the one of transformers 4 with `num_beam_groups`, as the authors' code uses it: the diversity penalty
stays in the running sums, ended hypotheses are compared by sum / generated length, and a token that ends a hypothesis
is never penalised. One problem is one node of a sentence tree; problems come and go while others are under way, and
nothing that one does changes another's result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

UNREACHED = -1e9  # the sum of beams 1..B-1 before the first step, so that one prompt does not give B equal beams


@dataclass
class Hypothesis:
    """One finished sequence of generated tokens.

    ids: without the ending token. score: (sum of log p - sum of penalties) / generated length, the ending token counted
    in both. log_likelihood: of `ids` alone, nats, penalties left out. end, end_log_p: the ending token and its log p,
    if one was taken (otherwise the limit cut the sequence, or the caller closed it). final: the caller's word on a
    sequence without an ending token, that the whole response ends with it. row: of the caller's, that stood behind
    `ids` when this was found. state: for the caller.
    """

    ids: tuple[int, ...]
    score: float
    log_likelihood: float
    group: int
    end: int | None = None
    end_log_p: float = 0.0
    final: bool = False
    row: int = field(default=-1, compare=False)
    state: Any = field(default=None, compare=False, repr=False)


class DiverseBeams:
    """The state of P problems of G groups of B beams; forward passes are the caller's.

    `add` problems at any time. Repeat `parents, tokens = step(log_p)` with a row of log-probabilities for each row that
    the previous step gave, and below them one for each problem added since. `finish` and `remove` each problem that has
    ended or is at its limit, before the next step.

    Args:
        end_ids: tokens that end a hypothesis. pad: what ended groups count as choosing (as in the original).
        max_new: limit of generated tokens, the ending one included. device: where the log-probabilities come from.
    """

    def __init__(
        self,
        groups: int,
        beams: int,
        penalty: float,
        end_ids: Iterable[int],
        pad: int,
        max_new: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.groups, self.beams, self.penalty, self.pad, self.max_new = groups, beams, penalty, pad, max_new
        self._device = torch.device(device)
        self._double: dict[str, Any] = {"dtype": torch.float64, "device": device}
        self.end_ids = torch.tensor(sorted(end_ids), device=device)
        self.hypotheses: list[list[list[Hypothesis]]] = []
        self.fresh: list[tuple[int, Hypothesis]] = []  # (problem, one found since the caller emptied this)
        shape = (0, groups, beams)
        self.lengths = torch.zeros(0, dtype=torch.long, device=device)  # tokens of each problem's open beams
        self.sums = torch.zeros(shape, **self._double)
        self.plain = torch.zeros(shape, **self._double)  # sums without penalties
        self.sequences = torch.zeros(*shape, max_new, dtype=torch.long, device=device)
        self.done = torch.zeros(0, groups, dtype=torch.bool, device=device)
        self.worst = torch.zeros(0, groups, **self._double)
        self.full = torch.zeros(0, groups, dtype=torch.bool, device=device)  # B hypotheses found
        # row_of[p, g, b]: the row of the caller's logits that belongs to an open beam.
        self.row_of = torch.zeros(shape, dtype=torch.long, device=device)

    def __len__(self) -> int:
        return len(self.hypotheses)

    def add(self, rows: Sequence[int]) -> None:
        """Append a problem for each of these rows of the caller's, which stand behind what is to be continued."""
        shape = (len(rows), self.groups, self.beams)
        sums = torch.full(shape, UNREACHED, **self._double)
        sums[..., 0] = 0.0
        places = torch.tensor(list(rows), dtype=torch.long, device=self._device)[:, None, None].expand(shape)
        new: dict[str, Tensor] = {"sums": sums, "plain": torch.zeros_like(sums), "row_of": places}
        new["lengths"] = self.lengths.new_zeros(len(rows))
        new["sequences"] = self.sequences.new_zeros(*shape, self.max_new)
        new["done"] = new["full"] = self.done.new_zeros(shape[:2])
        new["worst"] = torch.full(shape[:2], 1e9, **self._double)
        for name, value in new.items():
            setattr(self, name, torch.cat([getattr(self, name), value]))
        self.hypotheses += [[[] for _ in range(self.groups)] for _ in rows]

    def ended(self) -> list[int]:
        """Problems all of whose groups have found their hypotheses."""
        found: list[int] = torch.nonzero(self.done.all(1))[:, 0].tolist()
        return found

    def at_limit(self) -> Bool[Tensor, " problems"]:
        """Whose beams may not grow any more; a caller who wants to know what would follow asks before it finishes."""
        return self.lengths >= self.max_new

    def open_beams(self) -> Int[Tensor, "rows 3"]:
        """(problem, group, beam) of each row that the last `step` gave, in the order of the rows.

        Holds until a problem that has open beams is removed.
        """
        keep = ~self.done & (self.lengths > 0)[:, None]
        return keep[..., None].expand(self.sums.shape).nonzero()

    def close(self, rows: Iterable[int], final: Iterable[bool]) -> None:
        """Make open beams into hypotheses as they are, without an ending token (the caller saw that a sentence ended).

        `rows` are rows of the last step; their logits still have to be in the next `step`, and are not looked at.
        """
        places = self.open_beams().tolist()
        for row, ends in zip(rows, final, strict=True):
            p, g, b = places[row]
            if self.sums[p, g, b] > UNREACHED / 2:
                self._add(p, g, b, float(self.sums[p, g, b]) / int(self.lengths[p]), final=ends)
            self.sums[p, g, b] = float("-inf")

    def step(self, log_p: Float[Tensor, "rows vocab"]) -> tuple[Int[Tensor, " next"], Int[Tensor, " next"]]:
        """One step of all problems.

        Returns: for each row of the next forward pass the row of this one that it continues, and its token.
        """
        log_p = log_p.double()
        steps, vocab = self.lengths + 1, log_p.shape[-1]
        tokens = torch.full_like(self.row_of, self.pad)
        origin = torch.arange(self.beams, device=log_p.device).expand_as(self.row_of).clone()
        taken = torch.zeros(len(self), vocab, **self._double)  # by earlier groups in this step
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
            self._end(g, live, ends, top, gain, beam, token, steps)
            # A group is done when no open beam can beat its worst hypothesis at this length; or when none is left open.
            bound = self.full[live, g] & (self.worst[live, g] >= top[:, 0] / steps[live])
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
        self.sequences = self.sequences.gather(2, origin[..., None].expand(*origin.shape, self.max_new))
        self.sequences.scatter_(3, self.lengths[:, None, None, None].expand(*tokens.shape, 1), tokens[..., None])
        self.lengths = self.lengths + 1
        self.sums, self.plain = sums, plain
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
        steps: Int[Tensor, " problems"],
    ) -> None:
        """Hypotheses from the ending tokens among the best B candidates of group `g`."""
        hits = ends[:, : self.beams] & ~top[:, : self.beams].isneginf()
        for row, rank in hits.nonzero().tolist():
            p, b = int(live[row]), int(beam[row, rank])
            end = (int(token[row, rank]), float(gain[row, rank]))
            self._add(p, g, b, float(top[row, rank]) / int(steps[p]), end)

    def _add(
        self, p: int, g: int, b: int, score: float, end: tuple[int | None, float] = (None, 0.0), final: bool = False
    ) -> None:
        """Keep beam `b` as a hypothesis if it is among its group's B best so far."""
        kept = self.hypotheses[p][g]
        if len(kept) < self.beams or score > float(self.worst[p, g]):
            one = Hypothesis(self.ids(p, g, b), score, float(self.plain[p, g, b]), g, *end, final)
            one.row = int(self.row_of[p, g, b])
            kept.append(one)
            self.fresh.append((p, one))
            if len(kept) > self.beams:
                kept.remove(min(kept, key=lambda one: one.score))
                self.worst[p, g] = min(one.score for one in kept)
            else:
                self.worst[p, g] = min(score, float(self.worst[p, g]))
        self.full[p, g] = len(kept) == self.beams

    def ids(self, p: int, g: int, b: int) -> tuple[int, ...]:
        """The tokens of an open beam."""
        return tuple(self.sequences[p, g, b, : int(self.lengths[p])].tolist())

    def finish(self, problem: int, final: Sequence[bool] = ()) -> list[Hypothesis]:
        """A problem's best G * B hypotheses, best first; its open beams compete as they are.

        `final` says for its open rows whether the response ends with them; nothing said: it does not.
        """
        rows = [place for place in self.open_beams().tolist() if place[0] == problem]
        for (p, g, b), ends in zip(rows, final or [False] * len(rows), strict=True):
            if not self.sums[p, g, b].isneginf():
                self._add(p, g, b, float(self.sums[p, g, b]) / int(self.lengths[p]), final=ends)
        pool = [one for group in self.hypotheses[problem] for one in group]
        # Ascending and from the end: among equal scores the later group and the later addition come first.
        return sorted(pool, key=lambda one: one.score)[::-1][: self.groups * self.beams]

    def remove(self, problems: Iterable[int]) -> None:
        """Forget these problems; those behind them move up."""
        gone = set(problems)
        left = [problem for problem in range(len(self)) if problem not in gone]
        keep = torch.tensor(left, dtype=torch.long, device=self._device)
        for name in ("lengths", "sums", "plain", "sequences", "done", "worst", "full", "row_of"):
            setattr(self, name, getattr(self, name)[keep])
        self.hypotheses = [self.hypotheses[problem] for problem in left]
