"""Forward passes of a search: each node's picture, prompt and answer so far once, then one token a row and step.

What a search needs of it is `NodeDecoder` alone: `logits` for the present rows, and `advance` to rows that continue some of
them. Here a row that is continued twice copies its cache; decoding that shares prefixes can take this file's place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csr_core.policy import Policy, PromptInputs, collate


class NodeDecoder:
    """A batch of nodes under decoding. At first row i is node i; `advance` forks, drops and reorders rows.

    `logits`: of the next token for each row, float32, where the model is (on the CPU for MPS, which has no float64).
    """

    logits: Float[Tensor, "rows vocab"]

    @torch.inference_mode()
    def __init__(self, policy: Policy, prompts: Sequence[PromptInputs], written: Sequence[Sequence[int]]) -> None:
        """`written`: the token ids of each node's answer so far."""
        from transformers import DynamicCache

        self._policy = policy
        self._cache: Any = DynamicCache(config=policy.model.config)
        inputs = collate(prompts, written, policy.pad_id, policy.device)
        self._mask = inputs["attention_mask"]
        if not self._own_positions():
            inputs["position_ids"] = (self._mask.cumsum(-1) - 1).clamp(min=0)
        out = policy.model(**inputs, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._next = self._mask.sum(-1, keepdim=True)  # position of the token to come
        self._offsets = getattr(self._inner(), "rope_deltas", None)
        self._keep(out)

    @torch.inference_mode()
    def advance(self, parents: Int[Tensor, " next"], tokens: Int[Tensor, " next"]) -> None:
        """Replace the rows: new row i is row `parents[i]` with `tokens[i]` appended."""
        parents, tokens = parents.to(self._policy.device), tokens.to(self._policy.device)
        if not torch.equal(parents, torch.arange(len(self._mask), device=parents.device)):
            self._cache.batch_select_indices(parents)
            self._mask, self._next = self._mask[parents], self._next[parents]
            if self._offsets is not None:
                self._offsets = self._offsets[parents]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(parents), 1)], dim=-1)
        inputs: dict[str, Any] = {"input_ids": tokens[:, None], "attention_mask": self._mask}
        if self._own_positions():
            self._inner().rope_deltas = self._offsets
        else:
            inputs["position_ids"] = self._next
        out = self._policy.model(**inputs, past_key_values=self._cache, use_cache=True)
        self._next = self._next + 1
        self._keep(out)

    def _keep(self, out: Any) -> None:
        logits = out.logits[:, -1].float()
        self.logits = logits.cpu() if logits.device.type == "mps" else logits

    def _inner(self) -> Any:
        """The model without its head, and without PEFT's wrapping."""
        model = self._policy.model
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        return getattr(base, "model", base)

    def _own_positions(self) -> bool:
        """Families with positions in several dimensions (Qwen-VL) work them out from the mask and a row's offset."""
        return hasattr(self._inner(), "get_rope_index")


def context_length(policy: Policy) -> int | None:
    """The most tokens the language model can read, where its configuration tells."""
    found = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else None
