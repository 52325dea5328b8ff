"""The policy: a vision-language model of any family, its prompts, its adapters."""

from csr_core.policy.loading import Policy, load_policy
from csr_core.policy.prompt import PromptInputs, collate

__all__ = ["Policy", "PromptInputs", "collate", "load_policy"]
