"""What a model says about one picture, sentence by sentence, with the reward of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from csr_core.config import Settings
from csr_core.evaluation.answers import greedy_rows
from csr_core.policy import Policy, PromptInputs, collate
from csr_core.reward.calibration import is_repeat
from csr_core.reward.likelihood import likelihood_reward
from csr_core.reward.scorer import SentenceScorer, rewards_of_image
from csr_core.search.prefixes import Prefixes
from csr_core.search.sentences import SentenceRule, sentence_rule

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Told:
    """One sentence of an answer. relevance: R_I; likelihood: R_T, in the form and scale of the settings; reward: R.

    repeated: an earlier sentence of the answer says the same.
    """

    text: str
    relevance: float
    likelihood: float
    reward: float
    repeated: bool


def tell(policy: Policy, scorer: SentenceScorer, settings: Settings, image: Image, prompt: str) -> list[Told]:
    """The policy's greedy answer to `prompt` about `image`.

    Rewards are values, as in equation 4 of the paper, under `combine: rank` too: an answer has no siblings to be ranked
    among. The beams' own score, which a greedy answer has none of, is told as the mean log-likelihood of a token.

    Raises:
        InputError: the model's processor cannot read the picture or the prompt.
    """
    inputs, reward = policy.encode(image, prompt), settings.reward
    [(_, ids)] = greedy_rows(Prefixes(policy), [inputs], settings.evaluate.max_new_tokens, 1)
    gains = log_likelihoods(policy, inputs, ids).tolist()
    vocabulary = int(policy.model.get_output_embeddings().weight.shape[0])
    ends = sentence_ends(ids, sentence_rule(settings.generate.sentence_end, policy.tokenizer, vocabulary))
    spans = [span for span in zip([0, *ends[:-1]], ends, strict=True) if policy.decode(ids[span[0] : span[1]]).strip()]
    texts = [(policy.decode(ids[:end])[len(policy.decode(ids[:start])) :]).strip() for start, end in spans]
    scorer.add_image("picture", image)
    seen = scorer.relevances([("picture", text) for text in texts])
    form = "mean_log_probability" if reward.likelihood == "beam_score" else reward.likelihood
    raw = [likelihood_reward(form, sum(gains[start:end]), end - start) for start, end in spans]
    repeated = [is_repeat(text, texts[:place]) for place, text in enumerate(texts)]
    likely, rewards = rewards_of_image(reward, seen, raw, repeated)
    return [Told(*told) for told in zip(texts, seen, likely, rewards, repeated, strict=True)]


@torch.inference_mode()
def log_likelihoods(policy: Policy, prompt: PromptInputs, ids: list[int]) -> Float[Tensor, " tokens"]:
    """log p (nats) of each token of an answer after its prompt, under the full softmax at temperature 1."""
    inputs = collate([prompt], [ids], policy.pad_id, policy.device)
    logits = policy.model(**inputs, use_cache=False).logits[0, -len(ids) - 1 : -1].float()
    gains: Tensor = logits.log_softmax(-1).gather(1, torch.tensor(ids, device=logits.device)[:, None])[:, 0]
    return gains


def sentence_ends(ids: list[int], rule: SentenceRule) -> list[int]:
    """How many tokens of an answer there are up to the end of each of its sentences, the last one's included."""
    ends, start, waits = [], 0, False
    for place, token in enumerate(ids):
        if waits and not rule.goes_on(tuple(ids[start:place]), token):
            ends.append(place)
            start, waits = place, False
        waits = (waits or bool(rule.could_end[token])) and rule.waits(tuple(ids[start : place + 1]))
    return [*ends, len(ids)]
