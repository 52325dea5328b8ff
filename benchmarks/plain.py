"""The plain way, to compare with: one node at a time, picture and prompt anew for each beam of each node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from csr_core.config import GenerateSettings
from csr_core.policy import Policy, PromptInputs, collate
from csr_core.search.expand import Expander
from csr_core.search.jobs import Job
from csr_core.search.tree import Grower, Tree


class PlainDecoder:
    """Decodes as the authors' scripts do: `width` copies of the whole row go through the model first."""

    @torch.inference_mode()
    def __init__(self, policy: Policy, prompt: PromptInputs, written: Sequence[int], width: int) -> None:
        from transformers import DynamicCache

        self._policy, self._cache, self._fresh = policy, DynamicCache(), True
        inputs: dict[str, Any] = collate([prompt] * width, [written] * width, policy.pad_id, policy.device)
        out = policy.model(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self.logits: Tensor = out.logits[:1, -1].float()

    @torch.inference_mode()
    def advance(self, parents: Sequence[int], tokens: Tensor) -> None:
        rows = (torch.arange(len(parents)) if self._fresh else torch.as_tensor(parents)).to(self._policy.device)
        self._fresh = False
        self._cache.batch_select_indices(rows)
        out = self._policy.model(input_ids=tokens[:, None].to(rows.device), past_key_values=self._cache, use_cache=True)
        self.logits = out.logits[:, -1].float()

    def __len__(self) -> int:
        return 0

    def state(self, row: int) -> None:
        """Nothing is kept for the next sentence."""


class PlainExpander(Expander):
    """Expands one job at a time with the plain decoder; all else is the search's own."""

    def _begin(self, jobs: Sequence[Job], decoder: Any = None) -> Any:
        [job] = jobs
        return PlainDecoder(self.policy, job.prompt, job.written, self.settings.width)


def grow_plainly(policy: Policy, settings: GenerateSettings, trees: Sequence[Tree]) -> None:
    """Grow `trees` node by node and prompt by prompt."""
    grower = Grower(policy, settings.model_copy(update={"batch_size": 1}))
    own = grower.expander
    grower.expander = PlainExpander(own.policy, grower.settings, own.rule, own.prefixes)
    for tree in trees:
        grower.grow([tree])
