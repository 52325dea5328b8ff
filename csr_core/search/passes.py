"""What forward passes of any family need: the model inside its wrappers, caches, the last logits."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csr_core.policy import Policy
from csr_core.search.slots import LEAST_ROWS


def context_length(policy: Policy) -> int | None:
    """The most tokens the language model can read, where its configuration tells."""
    found = getattr(policy.model.config.get_text_config(), "max_position_embeddings", None)
    return int(found) if found else None


def new_cache() -> Any:
    from transformers import DynamicCache

    # Without the model's configuration every layer keeps all tokens, also those whose attention has a window: what lies
    # outside of it is masked, and rows of unlike padding can be cut out and joined.
    return DynamicCache()


def kept(rows: int) -> int:
    """For how many last tokens of each row to compute logits: only the last is used, but see LEAST_ROWS."""
    return math.ceil(LEAST_ROWS / rows)


def last_logits(out: Any) -> Float[Tensor, "rows vocab"]:
    logits: Tensor = out.logits[:, -1].float()
    return logits.cpu() if logits.device.type == "mps" else logits


def close(found: Tensor, expected: Tensor, dtype: torch.dtype, slack: float = 1.0) -> bool:
    """Whether two ways to compute logits agree as far as rounding in `dtype` lets them, `slack` times that."""
    limit = slack * (1e-3 if dtype == torch.float32 else 5e-2)
    return bool((found - expected).abs().max() <= limit * expected.abs().max().clamp(min=1.0))


def base_model(model: Any) -> Any:
    """The model without PEFT's wrapping."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def inner_model(model: Any) -> Any:
    """The model without its head, and without PEFT's wrapping."""
    base = base_model(model)
    return getattr(base, "model", base)


def text_model(policy: Policy) -> Any:
    """What reads on behind a prompt, where no picture comes any more: the model, or a part of it that has its head."""
    part = policy.family.text_part
    return getattr(base_model(policy.model), part) if part else policy.model
