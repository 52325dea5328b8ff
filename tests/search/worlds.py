"""The shipped miniature and its prompts, for tests of the search."""

import inspect
from functools import cache

import pytest
from transformers import LlavaModel

from csr_core.config import ModelSettings
from csr_core.miniature.draw import draw
from csr_core.miniature.world import DESCRIBE, sample_split
from csr_core.policy import Policy, PromptInputs, load_policy
from csr_core.search.tree import Tree

needs_features = pytest.mark.skipif(
    "mm_encoder_outputs" not in inspect.signature(LlavaModel.forward).parameters,
    reason="needs a transformers whose models take picture features in place of pictures",
)


@cache
def policy() -> Policy:
    return load_policy(ModelSettings(device="cpu"))


@cache
def prompts(count: int) -> list[PromptInputs]:
    """Pictures of the world, every other prompt a longer one."""
    questions = [DESCRIBE, f"{DESCRIBE} {DESCRIBE}"]
    scenes = sample_split("train", count, 0, 1)
    return [policy().encode(draw(scene), questions[index % 2]) for index, scene in enumerate(scenes)]


def trees(count: int) -> list[Tree]:
    return [Tree(f"p{index}", prompt) for index, prompt in enumerate(prompts(count))]
