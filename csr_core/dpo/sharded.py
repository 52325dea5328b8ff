"""Fine-tuning a model that no single GPU holds: FSDP2 shards it over the ranks, layer by layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from csr_core.config import ModelSettings
from csr_core.policy.adapters import TRAINED
from csr_core.policy.loading import resolve_device, resolve_dtype

# Of transformers' trainer, and through it accelerate's: each layer of the model is gathered when it is computed.
FSDP = {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": "FULL_STATE_DICT"}


def on_cpu(settings: ModelSettings) -> ModelSettings:
    """Where a model is loaded before it is sharded, in the dtype that it will have on the GPUs."""
    dtype = str(resolve_dtype(settings.dtype, resolve_device(settings.device))).removeprefix("torch.")
    return settings.model_copy(update={"device": "cpu", "dtype": dtype})


def whole_adapter(model: Any) -> dict[str, Tensor]:
    """The trained adapter's tensors, gathered from all ranks, on the CPU of each. All ranks must call it."""
    trained = {name: value.detach() for name, value in model.named_parameters() if f".{TRAINED}." in f"{name}."}
    return {name: (value.full_tensor() if hasattr(value, "full_tensor") else value).cpu() for name, value in trained.items()}
