"""What `csr chat` says of an answer is what generating and scoring say of it."""

import pytest

from csr_core.chat import Told, log_likelihoods, sentence_ends, tell
from csr_core.config import RewardSettings, Settings
from csr_core.evaluation.answers import greedy_rows
from csr_core.miniature.draw import draw
from csr_core.miniature.world import DESCRIBE, sample_split
from csr_core.reward.scorer import SentenceScorer
from csr_core.search.prefixes import Prefixes
from csr_core.search.sentences import sentence_rule
from flows.cli_models import _with_reward
from tests.search import worlds
from tests.search.test_tree import SAMPLE, grown

REWARD = RewardSettings(device="cpu", repeats_earn_nothing=True)


@pytest.fixture(scope="module")
def scorer():
    return SentenceScorer(REWARD)


def test_sentences_and_their_likelihoods_are_those_of_the_search():
    policy = worlds.policy()
    rule = sentence_rule("text", policy.tokenizer, int(policy.model.get_output_embeddings().weight.shape[0]))
    for tree in grown(SAMPLE, 3):
        node = next(node for node in reversed(tree.nodes) if node.depth > 1)
        path = [*tree.ancestors(node), node]
        ends = sentence_ends(list(node.written), rule)
        assert [end - start for start, end in zip([0, *ends], ends, strict=False)] == [len(one.ids) for one in path]
        gains = log_likelihoods(policy, tree.prompt, list(node.written))
        for one, start, end in zip(path, [0, *ends], ends, strict=False):
            assert float(gains[start:end].sum()) == pytest.approx(one.log_likelihood, abs=1e-4)


def test_an_answer_is_the_greedy_one_with_the_rewards_of_its_sentences(scorer):
    scorer.forget()
    policy, picture = worlds.policy(), draw(next(iter(sample_split("validation", 1, 0))))
    told = tell(policy, scorer, Settings(reward=REWARD), picture, DESCRIBE)
    [(_, ids)] = greedy_rows(Prefixes(policy), [policy.encode(picture, DESCRIBE)], 128, 1)
    assert " ".join(one.text for one in told) == policy.decode(ids).strip()
    assert len(told) > 2
    scorer.forget()
    scorer.add_image("a", picture)
    assert [one.relevance for one in told] == pytest.approx(scorer.relevances([("a", one.text) for one in told]))
    for one in told:
        assert 0 < one.likelihood <= 1
        assert one.reward == pytest.approx(0.9 * one.relevance + 0.1 * one.likelihood)


def test_a_repeated_sentence_says_why_its_reward_is_0():
    assert _with_reward(Told("A dog.", 0.5, 0.1, 0.0, repeated=True)).endswith("(said before)[/dim]")
    assert "before" not in _with_reward(Told("A dog.", 0.5, 0.1, 0.46, repeated=False))
