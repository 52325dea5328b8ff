"""Greedy answers of the search's decoder are those of the model's own `generate`."""

from typing import Any

import pytest
import torch

from csr_core.evaluation.answers import greedy_rows
from csr_core.policy import Policy, PromptInputs, collate, pictures
from csr_core.search.prefixes import Prefixes
from tests.search import families, worlds

TOKENS = 12


@torch.inference_mode()
def stock(policy: Policy, prompt: PromptInputs) -> list[int]:
    inputs = collate([prompt], [()], policy.pad_id, "cpu")
    row = policy.model.generate(
        **inputs, do_sample=False, max_new_tokens=TOKENS, pad_token_id=policy.pad_id,
        eos_token_id=sorted(policy.end_ids), suppress_tokens=list(policy.suppressed_ids) or None,
    )[0, prompt.length :].tolist()  # fmt: skip
    return row[: next((place for place, token in enumerate(row) if token in policy.end_ids), len(row))]


@pytest.mark.parametrize("family", ["llava", "qwen", "smolvlm"])
@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_equal_to_generate(family: str, batch_size: int) -> None:
    """Rows end at different steps, and with two rows a batch the third prompt enters while another goes on."""
    policy, prompts = (worlds.policy(), worlds.prompts(3)) if family == "llava" else families.make(family)
    policy.model.generation_config.eos_token_id = None  # given above
    found = dict(greedy_rows(Prefixes(policy), prompts, TOKENS, batch_size))
    assert found == {place: stock(policy, prompt) for place, prompt in enumerate(prompts)}


@worlds.needs_features
def test_a_picture_is_looked_at_once_for_all_its_questions() -> None:
    policy, [first, second] = worlds.policy(), worlds.prompts(2)
    tail = torch.full((1,), 20)
    longer = {
        name: torch.cat([value, tail if name == "input_ids" else value[-1:]]) for name, value in first.sequence.items()
    }
    again = PromptInputs(longer, {name: value.clone() for name, value in first.features.items()})
    prefixes = Prefixes(policy)
    found = dict(greedy_rows(prefixes, [first, second, again], TOKENS, 8))
    assert prefixes.pictures.looked_at == 2
    assert found[2] == stock(policy, again)


def test_a_model_that_cannot_be_given_features_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features that come out wrong, and a tower that needs more than it is given: pixels are taken as before."""
    policy, prompts = families.make("qwen")
    right = pictures.picture_features
    want = dict(greedy_rows(Prefixes(policy), prompts, TOKENS, 8))

    def wrong(inner: Any, features: dict[str, Any]) -> Any:
        out = right(inner, features)
        out["pooler_output"] = [2 * one for one in out["pooler_output"]]
        return out

    def failing(inner: Any, features: dict[str, Any]) -> Any:
        raise TypeError("qformer_input_ids is missing")

    for way in (wrong, failing):
        monkeypatch.setattr(pictures, "picture_features", way)
        prefixes = Prefixes(policy)
        assert dict(greedy_rows(prefixes, prompts, TOKENS, 8)) == want
        assert prefixes.pictures is None
