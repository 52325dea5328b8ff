import pytest

from csr_core.config import PairSettings
from csr_core.preference import pairs as module
from csr_core.preference.pairs import Pair, pair_of_tree, wants_same_length, without_closest
from csr_core.preference.paths import Answer
from tests.preference.trees import node, small_tree

SUM = PairSettings()


def flat(*rewards: float, texts: list[str] | None = None) -> list[dict]:
    texts = texts or [f" Sentence {index}." for index in range(len(rewards))]
    leaves = [node(index + 1, 0, texts[index], reward, final=True) for index, reward in enumerate(rewards)]
    return [node(0, None, "", None), *leaves]


def leaves(pair: Pair | str) -> tuple[int, int]:
    assert isinstance(pair, Pair), pair
    return pair.chosen.leaf, pair.rejected.leaf


def test_best_and_worst_answer_make_the_pair() -> None:
    pair = pair_of_tree("p", small_tree(), SUM, same_length=False)
    assert leaves(pair) == (4, 2)
    assert pair.margin == 12.0


def test_rejected_has_the_chosen_ones_length_where_asked() -> None:
    pair = pair_of_tree("p", small_tree(), SUM, same_length=True)
    assert leaves(pair) == (4, 3)
    assert pair.margin == 4.0


def test_where_no_other_is_equally_long_there_is_no_pair() -> None:
    tree = small_tree()
    tree[3]["is_final"] = False
    assert pair_of_tree("p", tree, SUM, same_length=True) == module.NO_SAME_LENGTH
    assert leaves(pair_of_tree("p", tree, SUM, same_length=False)) == (4, 2)


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        (flat(), module.NO_ANSWER),
        (flat(5.0), module.ONE_ANSWER),
        (flat(5.0, 4.0, texts=[" A dog.", "a  DOG."]), module.SAME_TEXT),
        (flat(5.0, 5.0), module.SMALL_MARGIN),
        (flat(5.0, 5.0 + 1e-5), module.SMALL_MARGIN),
        (flat(5.0, 4.5), module.SMALL_MARGIN),
    ],
)
def test_reasons(tree, reason) -> None:
    assert pair_of_tree("p", tree, PairSettings(min_margin=0.5), same_length=False) == reason


def test_margin_must_be_above_the_least() -> None:
    assert leaves(pair_of_tree("p", flat(5.0, 4.4), PairSettings(min_margin=0.5), False)) == (1, 2)


@pytest.mark.parametrize("noise", [0.0, 1e-5, -1e-5])
def test_of_equal_values_the_lowest_leaf_wins_whatever_the_noise(noise) -> None:
    assert leaves(pair_of_tree("p", flat(30.0, 10.0, 10.0 - noise, 30.0 + noise), SUM, False)) == (1, 2)


def test_tiny_rewards_are_compared_on_their_own_scale() -> None:
    # Probabilities of long sentences: far below any absolute tolerance, and yet ten times apart.
    assert leaves(pair_of_tree("p", flat(1e-9, 1e-8), SUM, False)) == (2, 1)


def _reordered(first: float, second: float) -> list[dict]:
    return [
        node(0, None, "", None),
        node(1, 0, " A dog.", 10.0),
        node(2, 0, " A cat.", 8.0),
        node(3, 1, " A cat.", first, final=True),
        node(4, 2, " A dog.", second, final=True),
    ]


def test_reorderings_are_no_pair_under_the_centred_sum() -> None:
    centred = PairSettings(path_score="centred_sum")
    assert pair_of_tree("p", _reordered(8.3, 10.0), centred, False) == module.SAME_SENTENCES
    assert pair_of_tree("p", _reordered(8.0, 10.0), SUM, False) == module.SAME_SENTENCES
    assert leaves(pair_of_tree("p", _reordered(8.3, 10.0), SUM, False)) == (3, 4)


def test_ranks_lower_is_better_once_their_sign_is_turned() -> None:
    tree = flat(-0.2, -1.0, -0.6)
    pair = pair_of_tree("p", tree, PairSettings(path_score="rank_mean"), False)
    assert leaves(pair) == (1, 2)
    assert (pair.chosen.value, pair.rejected.value, pair.margin) == pytest.approx((-0.1, -0.5, 0.4))


def test_share_of_equal_lengths_is_a_fixed_coin() -> None:
    names = [f"{index:04}" for index in range(2000)]
    drawn = [wants_same_length(name, 0, 1, 0.5) for name in names]
    assert 900 < sum(drawn) < 1100
    assert drawn == [wants_same_length(name, 0, 1, 0.5) for name in names]
    assert drawn != [wants_same_length(name, 0, 2, 0.5) for name in names]
    assert drawn != [wants_same_length(name, 1, 1, 0.5) for name in names]
    assert not any(wants_same_length(name, 0, 1, 0.0) for name in names)
    assert all(wants_same_length(name, 0, 1, 1.0) for name in names)


def _pair(prompt_id: str, margin: float) -> Pair:
    return Pair(prompt_id, Answer((1,), "a", ("a",), margin), Answer((2,), "b", ("b",), 0.0))


def test_the_closest_share_is_dropped() -> None:
    pairs = [_pair(name, margin) for name, margin in zip("edcba", (3.0, 1.0, 2.0, 1.0 + 1e-6, 5.0), strict=True)]
    kept, gone = without_closest(pairs, 0.2)
    assert [item.prompt_id for item in gone] == ["b"]  # ties by prompt_id, noise aside
    assert [item.prompt_id for item in kept] == ["a", "c", "d", "e"]
    assert [item.prompt_id for item in without_closest(pairs, 0.6)[1]] == ["b", "c", "d"]
    assert without_closest(pairs, 0.19)[1] == []
    assert len(without_closest([_pair(str(n), n) for n in range(15)], 0.2)[1]) == 3
    assert without_closest([], 0.5) == ([], [])
