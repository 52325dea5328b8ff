"""Fine-tuning a model that no single GPU holds: FSDP2 shards it over the ranks, layer by layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from csr_core.config import ModelSettings
from csr_core.errors import SettingsError
from csr_core.policy.adapters import TRAINED
from csr_core.policy.loading import resolve_device, resolve_dtype
from csr_core.search.passes import base_model


def on_cpu(settings: ModelSettings) -> ModelSettings:
    """Where a model is loaded before it is sharded, in the dtype that it will have on the GPUs."""
    dtype = str(resolve_dtype(settings.dtype, resolve_device(settings.device))).removeprefix("torch.")
    return settings.model_copy(update={"device": "cpu", "dtype": dtype})


def fsdp_config(model: Any) -> dict[str, Any]:
    """For transformers' trainer: each layer is gathered when it is computed, and let go again.

    The layers are those the model's family calls inseparable; of these it may lack some (LLaVA lacks CLIP's text
    side), which accelerate refuses.

    Raises:
        SettingsError: the family names none.
    """
    base = base_model(model)
    present = {type(module).__name__ for module in base.modules()}
    layers = sorted(present & set(base._no_split_modules or ()))
    if not layers:
        raise SettingsError(
            f"run.fsdp is true, and {type(base).__name__} does not say which of its layers can be sharded: set it to "
            "false, and finetune.gradient_checkpointing to true to save memory"
        )
    return {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": layers,
        "state_dict_type": "FULL_STATE_DICT",
    }


def keep_precision(accelerator: Any, dtype: torch.dtype) -> None:
    """Compute in `dtype`, but add gradients up in float32, and leave what the model gives out as it is.

    accelerate would round both to `dtype`: an answer's log-likelihood of -100 to whole halves in bfloat16, where a
    DPO margin is a few hundredths. To be called before the model is sharded.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy

    accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, output_dtype=None
    )


def whole_adapter(model: Any) -> dict[str, Tensor]:
    """The trained adapter's tensors, gathered from all ranks, on the CPU of each. All ranks must call it."""
    trained = {name: value.detach() for name, value in model.named_parameters() if f".{TRAINED}." in f"{name}."}
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).cpu() for name, value in trained.items()
    }
