"""Growing trees on the shipped miniature."""

import pytest
import torch

from csr_core.config import GenerateSettings
from csr_core.search.jobs import Sentence
from csr_core.search.tree import Grower, Node, Tree, path_sums, select
from tests.search import worlds
from tests.search.test_decoding import plain

SAMPLE = GenerateSettings(keep_by="likelihood", max_sentences=3, batch_size=8)
BEAMS = GenerateSettings(
    method="diverse_beam",
    width=4,
    beam_groups=2,
    diversity_penalty=0.5,
    keep_best=1,
    keep_worst=1,
    keep_by="likelihood",
    max_sentences=3,
)


def grown(settings: GenerateSettings, count: int = 4, seed: int = 0, **options) -> list[Tree]:
    trees = worlds.trees(count)
    Grower(worlds.policy(), settings, seed, **options).grow(trees)
    return trees


def level(values: list[float], final: tuple[int, ...] = ()) -> list[Node]:
    return [Node(index + 1, 0, 1, is_final=index in final) for index in range(len(values))]


@pytest.mark.parametrize(
    ("values", "final", "want"),
    [
        ([5, 1, 4, 2, 3, 0], (), [1, 3, 2, 6]),  # best two, worst two, best first
        ([5, 1, 4, 2, 3, 0], (0,), [3, 5, 2, 6]),  # a final node is not counted
        ([5, 1, 4, 2], (), [1, 3, 4, 2]),  # fewer than width: all
        ([1, 1, 1, 1, 1 + 1e-7, 1], (), [1, 2, 5, 6]),  # noise does not order
        ([1, 2], (0, 1), []),
    ],
)
def test_best_and_worst_of_a_level(values, final, want):
    chosen = select(level(values, final), values, GenerateSettings(keep_best=2, keep_worst=2, width=5))
    assert [node.id for node in chosen] == want


def test_the_authors_numbers_keep_one_and_two():
    values = [0.0, -3.0, -1.0, -4.0, -2.0]
    chosen = select(level(values), values, GenerateSettings(keep_best=1, keep_worst=2, width=5))
    assert [node.id for node in chosen] == [1, 2, 4]


def test_a_side_that_keeps_none():
    values = [0.0, -3.0, -1.0, -4.0, -2.0]
    chosen = select(level(values), values, GenerateSettings(keep_best=2, keep_worst=0, width=5))
    assert [node.id for node in chosen] == [1, 3]


def test_rewards_add_up_along_the_path():
    tree = Tree("p", worlds.prompts(1)[0], [Node(0, None, 0), Node(1, 0, 1), Node(2, 0, 1), Node(3, 1, 2)])
    assert path_sums(tree, [9.0, 1.0, 2.0, 4.0]) == [0.0, 1.0, 2.0, 5.0]


@pytest.mark.parametrize("settings", [SAMPLE, BEAMS], ids=["sample", "beams"])
def test_a_tree_is_whole(settings):
    policy = worlds.policy()
    for tree in grown(settings):
        assert [node.id for node in tree.nodes] == list(range(len(tree.nodes)))
        for node in tree.nodes[1:]:
            parent = tree.nodes[node.parent]
            assert parent.id < node.id
            assert parent.expanded
            assert not parent.is_final
            assert node.depth == parent.depth + 1
            path = [*tree.ancestors(node), node]
            assert "".join(one.text for one in path) == policy.decode(node.written)
            assert tuple(token for one in path for token in one.ids) == node.written
            assert policy.end_ids.isdisjoint(node.ids)
            assert node.text.strip().endswith((".", "?", "!")) or node.is_final
            assert node.is_final == (node.is_final or node.depth == 3)
        assert max(node.depth for node in tree.nodes) <= 3


def test_samples_have_distinct_siblings():
    for tree in grown(SAMPLE):
        places = [(node.parent, node.text) for node in tree.nodes]
        assert len(places) == len(set(places))


@pytest.mark.parametrize("settings", [SAMPLE, BEAMS], ids=["sample", "beams"])
def test_the_likelihood_is_that_of_a_plain_pass(settings):
    policy, tree = worlds.policy(), grown(settings, count=2)[1]
    for node in [tree.nodes[1], tree.nodes[-1]]:
        written = tree.nodes[node.parent].written
        total = 0.0
        for index, token in enumerate(node.ids):
            logits = plain(policy, tree.prompt, [*written, *node.ids[:index]])
            total += float(logits.log_softmax(-1)[token])
        assert node.log_likelihood == pytest.approx(total, abs=1e-4)


def test_scores_of_samples_are_sums_of_mean_likelihoods():
    tree = grown(SAMPLE, count=1)[0]
    for node in tree.nodes[1:]:
        own = node.log_likelihood / len(node.ids)
        assert node.score == pytest.approx(tree.nodes[node.parent].score + own)


@pytest.mark.parametrize("settings", [SAMPLE, BEAMS], ids=["sample", "beams"])
def test_batch_size_changes_nothing(settings):
    one, many = (grown(settings.model_copy(update={"batch_size": size}), count=5) for size in (1, 64))
    for left, right in zip(one, many, strict=True):
        names = ("node", "parent", "token_ids", "text", "is_final", "expanded")
        assert [[row[name] for name in names] for row in left.rows()] == [
            [row[name] for name in names] for row in right.rows()
        ]
        for name in ("log_likelihood", "score"):
            got, want = (torch.tensor([row[name] for row in tree.rows()]) for tree in (left, right))
            assert torch.allclose(got, want, atol=1e-4)


def test_the_seed_and_the_iteration_decide():
    texts = [[row["text"] for tree in grown(SAMPLE, 2, seed, iteration=it) for row in tree.rows()] for seed, it in
             ((0, 0), (0, 0), (1, 0), (0, 1))]  # fmt: skip
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert texts[0] != texts[3]


def test_rewards_choose_what_grows():
    """The reward here is the number of letters t: the sentence with most of them must be grown."""

    def rewards(trees):
        return [[float(node.text.count("t")) for node in tree.nodes] for tree in trees]

    settings = SAMPLE.model_copy(update={"keep_by": "reward", "keep_best": 1, "keep_worst": 0, "max_sentences": 2})
    for tree in grown(settings, rewards=rewards):
        first = [node for node in tree.nodes if node.depth == 1 and not node.is_final]
        if len(first) >= settings.width:
            best = max(first, key=lambda node: (node.text.count("t"), -node.id))
            assert [node.id for node in first if node.expanded] == [best.id]
        else:
            assert all(node.expanded for node in first)


def test_rewards_must_be_given():
    with pytest.raises(ValueError, match="keep_by"):
        Grower(worlds.policy(), GenerateSettings(keep_by="reward"))


def test_a_sentence_is_cut_at_the_limit_and_goes_on():
    tree = grown(SAMPLE.model_copy(update={"max_sentence_tokens": 3}), count=1)[0]
    assert {len(node.ids) for node in tree.nodes[1:]} <= {1, 2, 3}
    assert any(node.depth == 2 for node in tree.nodes)


def test_samples_follow_the_models_distribution():
    """The share of the likeliest first sentence among many samples is its probability."""
    policy, prompt = worlds.policy(), worlds.prompts(1)[0]
    many = Tree("many", prompt)
    width = 400
    settings = SAMPLE.model_copy(update={"width": width, "max_sentences": 2, "keep_best": 1, "keep_worst": 0})
    grower = Grower(policy, settings)

    def sentences() -> list[Sentence]:
        grower.expander.add([grower._job(many, many.nodes[0], None)])
        while not (done := grower.expander.step()):
            pass
        return done[0][1]

    many.nodes[0].written = tuple(sentences()[0].ids)
    found = sentences()
    counts: dict[tuple[int, ...], int] = {}
    for sentence in found:
        counts[sentence.ids] = counts.get(sentence.ids, 0) + 1
    for ids, count in counts.items():
        likely = next(one.log_likelihood for one in found if one.ids == ids)
        expected = float(torch.tensor(likely).exp())
        if expected > 0.1:
            deviation = (expected * (1 - expected) / width) ** 0.5
            assert abs(count / width - expected) < 4 * deviation


AUTHORS = BEAMS.model_copy(update={"sentence_end": "token", "max_sentence_tokens": 6})


@pytest.mark.parametrize("settings", [SAMPLE, BEAMS, AUTHORS], ids=["sample", "beams", "authors"])
def test_a_sentence_is_written_on_from_where_the_model_stands(settings):
    """What is kept of a sentence gives the logits of a plain pass over the prompt and all of it."""
    policy, [tree] = worlds.policy(), worlds.trees(1)
    grower = Grower(policy, settings)
    grower.expander.add([grower._job(tree, tree.nodes[0], None)])
    while not (done := grower.expander.step()):
        pass
    sentences = [sentence for sentence in done[0][1] if not sentence.final]
    assert sentences
    for sentence in sentences:
        [state] = grower.prefixes.catch_up([sentence.state])
        assert state.written == len(sentence.ids)
        assert torch.allclose(state.logits, plain(policy, tree.prompt, sentence.ids), atol=1e-4)
