"""A base of 4 or 8 bits by bitsandbytes: whether it can be had here, and what is rounded."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from csr_core.config import ModelSettings
from csr_core.errors import SettingsError


def refuse_unusable(settings: ModelSettings, device: torch.device) -> None:
    """Say at once why this machine cannot have `model.quantization`.

    Raises:
        SettingsError: no CUDA device, or bitsandbytes is not installed.
    """
    if settings.quantization is None:
        return
    if device.type != "cuda":
        raise SettingsError(
            f"model.quantization is {settings.quantization!r}, which needs a CUDA GPU, and the model is to be on "
            f"{device.type!r}: set model.quantization to null here, or run where there is a GPU"
        )
    if find_spec("bitsandbytes") is None:
        raise SettingsError(
            f"model.quantization is {settings.quantization!r}, which needs bitsandbytes: "
            "pip install 'csr-pipeline[quantization]', or set it to null"
        )


def loading_options(settings: ModelSettings, source: str, dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """What `from_pretrained` must be given for a rounded base; nothing without `model.quantization`.

    The language model's linear layers are rounded, the vision side and the output layer are not. nf4: normal float of
    4 bits, scales rounded too (QLoRA, arXiv 2305.14314); products are computed in `dtype`.
    """
    if settings.quantization is None:
        return {}
    from transformers import AutoConfig, BitsAndBytesConfig

    from csr_core.memory.shapes import skeleton, unrounded

    config = AutoConfig.from_pretrained(
        source, revision=settings.revision, trust_remote_code=settings.trust_remote_code
    )
    kept = unrounded(skeleton(config, settings.trust_remote_code))
    four = {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": dtype,
    }
    rounding = four if settings.quantization == "nf4" else {"load_in_8bit": True}
    return {
        "quantization_config": BitsAndBytesConfig(**rounding, llm_int8_skip_modules=kept),
        "device_map": {"": device},
    }
