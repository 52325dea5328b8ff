import pytest

from csr_core.preference.paths import complete_answers
from tests.preference.trees import node, small_tree


@pytest.mark.parametrize(
    ("rule", "values"),
    [
        ("sum", {(2,): 4.0, (1, 3): 12.0, (1, 4): 16.0}),
        ("mean", {(2,): 4.0, (1, 3): 6.0, (1, 4): 8.0}),
        ("centred_sum", {(2,): -1.0, (1, 3): 2.0, (1, 4): 6.0}),
        ("threshold_sum", {(2,): -1.0, (1, 3): 2.0, (1, 4): 6.0}),  # best 10, threshold 1/2: each pays R - 5
        ("rank_mean", {(2,): 2.0, (1, 3): 4.0, (1, 4): 16 / 3}),  # the root counts among the nodes
    ],
)
def test_scores_of_a_small_tree(rule, values) -> None:
    answers = complete_answers(small_tree(), rule, threshold=0.5)
    assert {answer.nodes: answer.value for answer in answers} == pytest.approx(values)


def test_where_all_sentences_are_true_a_threshold_rewards_saying_more() -> None:
    """Mean 36, best 40: the second sentence (28) costs 8 under the centred sum and pays 8 above half the best."""
    tree = [node(0, None, "", None), node(1, 0, " A dog.", 40.0, final=True), node(2, 0, " A dog.", 40.0)]
    tree.append(node(3, 2, " A bus.", 28.0, final=True))
    values = {
        rule: {a.nodes: a.value for a in complete_answers(tree, rule, 0.5)} for rule in ("centred_sum", "threshold_sum")
    }
    assert values["centred_sum"] == pytest.approx({(1,): 4.0, (2, 3): -4.0})
    assert values["threshold_sum"] == pytest.approx({(1,): 20.0, (2, 3): 28.0})


def test_text_is_the_sentences_joined_without_outer_space() -> None:
    texts = {answer.nodes: answer.text for answer in complete_answers(small_tree(), "sum")}
    assert texts == {(2,): "A cat.", (1, 3): "A dog. A bus.", (1, 4): "A dog. A bed."}


def test_dropped_node_takes_its_answers_along() -> None:
    tree = small_tree()
    tree[1].update(dropped="clean", reward=None)
    tree[3].update(dropped="ancestor", reward=None)
    tree[4].update(dropped="ancestor", reward=None)
    assert [answer.nodes for answer in complete_answers(tree, "sum")] == [(2,)]


def test_ending_without_text_is_no_sentence() -> None:
    tree = [node(0, None, "", None), node(1, 0, " A dog.", 10.0), node(2, 1, "", None, final=True)]
    (answer,) = complete_answers(tree, "mean")
    assert (answer.value, answer.sentences, answer.text, answer.nodes) == (10.0, ("a dog.",), "A dog.", (1, 2))


def test_tree_without_a_final_leaf_or_without_text_has_no_answer() -> None:
    assert complete_answers([node(0, None, "", None), node(1, 0, " A dog.", 1.0)], "sum") == []
    assert complete_answers([node(0, None, "", None, final=True)], "centred_sum") == []
    assert complete_answers([node(0, None, "", None), node(1, 0, "", None, final=True)], "sum") == []
