"""Draws that depend on their place in the tree alone."""

import torch

from csr_core.search.sampling import Drawer, Stream


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


def drawn(
    weights: list[list[float]], rows: list[int], uniforms: list[float], forbidden: tuple[int, ...] = ()
) -> list[int]:
    drawer = Drawer(torch.tensor(weights).log(), 1.0, forbidden)
    return drawer.draw(torch.tensor(rows), torch.tensor(uniforms, dtype=torch.float64))[0].tolist()


def test_draw_is_the_inverse_of_the_running_sum():
    weights = [[0.5, 0.0, 0.3, 0.2], [0.0, 1.0, 0.0, 0.0]]
    uniforms = [0.0, 0.49, 0.51, 0.79, 0.81, 0.0, 1.0 - 2.0**-53]
    assert drawn(weights, [0, 0, 0, 0, 0, 1, 1], uniforms) == [0, 0, 2, 2, 3, 1, 1]


def test_draw_never_takes_a_token_without_weight():
    assert drawn([[0.1, 0.2, 0.0]], [0], [1.0]) == [1]
    assert drawn([[0.1, 0.2, 0.7]], [0, 0], [0.5, 1.0], forbidden=(2,)) == [1, 1]


def test_large_vocabularies_are_the_running_sum_too():
    """Blocks of 128, the last one not full; some tokens forbidden for all rows, one for the second row alone."""
    logits = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    drawer = Drawer(logits, 0.7, (5, 299))
    drawer.forbid([1], [130])
    uniforms = torch.linspace(0, 1, 500, dtype=torch.float64)
    for row in (0, 1):
        hidden = [5, 299, *([130] if row else [])]
        weights = (logits[row].double() / 0.7).softmax(-1)
        weights[hidden] = 0
        want = torch.searchsorted(weights.cumsum(-1), uniforms * weights.sum(), right=True).clamp(max=298)
        tokens, gains = drawer.draw(torch.full((500,), row), uniforms)
        assert (tokens == want).float().mean() > 0.99  # numbers right at a border may go either way
        assert not set(hidden) & set(tokens.tolist())
        assert torch.allclose(gains, logits[row].double().log_softmax(-1)[tokens], atol=1e-6)


def test_temperature_and_likelihood():
    """At temperature 0.5 the odds of 1 : 2 become 1 : 4; the likelihood told is the one at temperature 1."""
    logits = torch.log(torch.tensor([[0.2, 0.4, 0.4]]))
    uniforms = torch.tensor([0.19, 0.21], dtype=torch.float64)
    for temperature, want in ((0.5, [0, 1]), (1.0, [0, 0])):
        tokens, gains = Drawer(logits, temperature, (2,)).draw(torch.tensor([0, 0]), uniforms)
        assert tokens.tolist() == want
        assert torch.allclose(gains.exp(), torch.tensor([0.2, 0.4])[tokens].double())
