"""Diverse group beam search on hand-made log-probabilities."""

import math

import pytest
import torch

from csr_core.search.beams import DiverseBeams

END, PAD = 0, 1


def _one(**options) -> DiverseBeams:
    beams = DiverseBeams(end_ids=[END], pad=PAD, **options)
    beams.add([0])
    return beams


def _log(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities).log()


def test_two_groups_of_one_beam_by_hand():
    # Tokens: 0 end, 1 pad, 2 "a", 3 "b". Penalty 1 a time that an earlier group took the token in this step.
    beams = _one(groups=2, beams=1, penalty=1.0, max_new=5)
    parents, tokens = beams.step(_log(0.1, 0.05, 0.5, 0.35)[None])
    # Group 0 takes a (ln .5); group 1: a is ln .5 - 1 = -1.69, b is ln .35 = -1.05.
    assert (parents.tolist(), tokens.tolist()) == ([0, 0], [2, 3])
    # Both likeliest tokens are now the end, which is not penalised: group 1 ends as well.
    beams.step(torch.stack([_log(0.6, 0.1, 0.2, 0.1), _log(0.7, 0.1, 0.1, 0.1)]))
    assert beams.ended() == [0]
    first, second = beams.finish(0)
    assert (first.ids, first.group, second.ids, second.group) == ((2,), 0, (3,), 1)
    # The end counts in the sum and in the length.
    assert first.score == pytest.approx((math.log(0.5) + math.log(0.6)) / 2)
    assert second.score == pytest.approx((math.log(0.35) + math.log(0.7)) / 2)
    assert first.log_likelihood == pytest.approx(math.log(0.5))
    assert first.end_log_p == pytest.approx(math.log(0.6))


def test_the_penalty_stays_in_the_score_but_not_in_the_likelihood():
    beams = _one(groups=2, beams=1, penalty=0.1, max_new=1)
    beams.step(_log(0.02, 0.02, 0.9, 0.06)[None])
    first, second = beams.finish(0)
    assert first.ids == second.ids == (2,)
    assert second.score == pytest.approx(math.log(0.9) - 0.1)
    assert second.log_likelihood == pytest.approx(math.log(0.9))


def test_open_beams_compete_with_finished_ones():
    # One group of two beams: "end" is second best at first and becomes a hypothesis, the beam goes on to the limit.
    beams = _one(groups=1, beams=2, penalty=0.0, max_new=2)
    beams.step(_log(0.3, 0.01, 0.6, 0.09)[None])
    beams.step(torch.stack([_log(0.01, 0.01, 0.9, 0.08)] * 2))
    best, other = beams.finish(0)
    assert best.ids == (2, 2)
    assert best.score == pytest.approx((math.log(0.6) + math.log(0.9)) / 2)
    assert (other.ids, other.end) == ((), END)
    assert other.score == pytest.approx(math.log(0.3))


def test_of_equal_scores_the_later_group_comes_first():
    beams = _one(groups=2, beams=1, penalty=0.0, max_new=1)
    beams.step(_log(0.1, 0.1, 0.7, 0.1)[None])
    assert [one.group for one in beams.finish(0)] == [1, 0]


def test_a_closed_beam_becomes_a_hypothesis_without_the_next_token():
    beams = _one(groups=2, beams=1, penalty=1.0, max_new=9)
    beams.step(_log(0.1, 0.05, 0.5, 0.35)[None])
    beams.close([0], [True])
    parents, tokens = beams.step(torch.stack([_log(0.1, 0.1, 0.7, 0.1)] * 2))
    # Group 0 is over; it takes no token in this step, so that group 1 is not penalised for "a".
    assert (parents.tolist(), tokens.tolist()) == ([1], [2])
    beams.close([0], [False])
    beams.step(torch.stack([_log(0.1, 0.1, 0.7, 0.1)]))
    assert beams.ended() == [0]
    found = {one.group: one for one in beams.finish(0)}
    assert (found[0].ids, found[0].final, found[1].ids, found[1].final) == ((2,), True, (3, 2), False)
    assert found[0].score == pytest.approx(math.log(0.5))
    assert found[1].score == pytest.approx((math.log(0.35) + math.log(0.7)) / 2)


def _search(problems: list[int], groups: int, beams: int, together: int) -> dict[int, list[tuple]]:
    """Search on random numbers that depend on the problem, the tokens so far and nothing else; so many at once."""
    state = DiverseBeams(groups, beams, 0.7, [END], PAD, max_new=7)
    waiting, live, found = list(problems), [], {}
    rows: list[tuple[int, ...]] = []
    while waiting or live:
        new = [waiting.pop(0) for _ in range(min(len(waiting), together - len(live)))]
        state.add(range(len(rows), len(rows) + len(new)))
        rows += [(problem,) for problem in new]
        live += new
        seeds = [torch.Generator().manual_seed(hash(row) % 2**31) for row in rows]
        log_p = torch.stack([(2 * torch.randn(12, generator=seed)).log_softmax(-1) for seed in seeds])
        parents, tokens = state.step(log_p)
        rows = [(*rows[parent], token) for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True)]
        over = sorted({*state.ended(), *state.at_limit().nonzero()[:, 0].tolist()})
        for place in over:
            found[live[place]] = [(one.ids, one.score, one.group, one.end) for one in state.finish(place)]
        state.remove(over)
        live = [problem for place, problem in enumerate(live) if place not in over]
    return found


@pytest.mark.parametrize(("groups", "beams"), [(5, 1), (2, 2), (1, 3), (3, 2)])
def test_a_problem_among_others_that_come_and_go_gives_what_it_gives_alone(groups, beams):
    alone, together, few = (_search(list(range(9)), groups, beams, at_once) for at_once in (1, 9, 4))
    assert together == few == alone
    lengths = {len(ids) for found in together.values() for ids, *_ in found}
    assert len(lengths) > 2  # they end at different steps
