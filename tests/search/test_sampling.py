"""Draws that depend on their place in the tree alone."""

import torch

from csr_core.search.sampling import Stream, allowed_weights, draw


def test_uniform_numbers_follow_from_every_part_of_the_place():
    base = (0, 1, "p", (0, 3))
    number = Stream(*base).uniform(4)
    assert number == Stream(*base).uniform(4)
    others = [
        (1, 1, "p", (0, 3)),
        (0, 2, "p", (0, 3)),
        (0, 1, "q", (0, 3)),
        (0, 1, "p", (0, 2)),
        (0, 1, "p", (0, 3, 0)),
    ]
    numbers = [Stream(*other).uniform(4) for other in others] + [Stream(*base).uniform(5)]
    assert len({number, *numbers}) == 7


def test_uniform_numbers_are_uniform():
    numbers = torch.tensor([Stream(0, 0, "p", (index,)).uniform(0) for index in range(4000)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    shares = torch.histc(numbers, 10, 0, 1) / 4000
    assert (shares - 0.1).abs().max() < 0.02  # 4 standard deviations


def test_draw_is_the_inverse_of_the_running_sum():
    weights = torch.tensor([[0.5, 0.0, 0.3, 0.2], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
    rows = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    uniforms = torch.tensor([0.0, 0.49, 0.5, 0.79, 0.81, 0.0, 1.0 - 2.0**-53], dtype=torch.float64)
    assert draw(weights, rows, uniforms).tolist() == [0, 0, 2, 2, 3, 1, 1]


def test_draw_never_takes_a_token_without_weight():
    weights = torch.tensor([[0.1, 0.2, 0.0]], dtype=torch.float64)
    assert draw(weights, torch.tensor([0]), torch.tensor([1.0], dtype=torch.float64)).tolist() == [1]


def test_temperature_and_forbidden_tokens():
    logits = torch.log(torch.tensor([[0.2, 0.4, 0.4]]))
    forbidden = torch.tensor([[False, False, True]])
    assert torch.allclose(allowed_weights(logits, 1.0, forbidden)[0].float(), torch.tensor([1 / 3, 2 / 3, 0.0]))
    # At temperature 0.5 the odds of 1 : 2 become 1 : 4.
    assert torch.allclose(allowed_weights(logits, 0.5, forbidden)[0].float(), torch.tensor([0.2, 0.8, 0.0]))
