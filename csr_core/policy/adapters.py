"""What an iteration leaves behind: a LoRA adapter, or a whole model with the adapter merged in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csr_core.errors import CsrError
from csr_core.policy.loading import Policy

TRAINED = "default"  # PEFT's name of the adapter that is trained; "ref", TRL's frozen copy of its start, is never kept


def is_adapted(model: Any) -> bool:
    """Whether `model` is a PeftModel (asked without importing peft)."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def adapter_parameters(model: Any) -> int:
    """Number of values in the trained adapter of a PeftModel."""
    return sum(value.numel() for name, value in model.named_parameters() if f".{TRAINED}." in f"{name}.")


def save_adapter(model: Any, out: Path, base: str, weights: dict[str, Tensor] | None = None) -> None:
    """Write the trained adapter of `model` directly into `out`: adapter_config.json and adapter_model.safetensors.

    `base` is written as the name of the base model in the place of the folder it was loaded from, so that the files
    are the same wherever the project lies. TRL's reference adapter and PEFT's model card are not written.
    `weights`: the adapter's tensors by name, where `model` itself holds but shards of them.
    """
    config = model.peft_config[TRAINED]
    config.base_model_name_or_path = base
    # Embeddings are never adapted here; "auto" would look the base model up on the hub to find that out.
    model.save_pretrained(
        str(out),
        selected_adapters=[TRAINED],
        save_embedding_layers=False,
        **({"state_dict": weights} if weights else {}),
    )
    (out / "README.md").unlink(missing_ok=True)


def merge_float32(model: Any, probe: dict[str, Tensor] | None = None, tolerance: float = 1e-3) -> Any:
    """The base model with the trained adapter's product added to its weights, on the CPU in float32.

    In bfloat16 a small product would vanish in the rounding of the weight it is added to, so all is turned into
    float32 first (4 bytes a parameter of memory). `probe` are model inputs on which the logits before and after are
    compared. `model` is used up.

    Raises:
        CsrError: the logits differ by more than `tolerance` times the largest logit: the merge went wrong.
    """
    model = model.to("cpu").float().eval()
    if "ref" in model.peft_config:
        model.delete_adapter("ref")
    before = None if probe is None else _logits(model.get_base_model(), probe)
    merged = model.merge_and_unload(safe_merge=True, adapter_names=[TRAINED])
    if before is not None and probe is not None:
        after = _logits(merged, probe)
        difference, largest = float((after - before).abs().max()), float(before.abs().max())
        if not difference <= tolerance * max(largest, 1.0):
            raise CsrError(
                f"merging the adapter changed the logits by {difference:.2e} (largest logit {largest:.2e}, allowed "
                f"{tolerance:g} of it): the merged model would not be the trained one. Set finetune.carry to 'adapter'"
            )
    return merged


def _logits(model: Any, probe: dict[str, Tensor]) -> Float[Tensor, "rows tokens vocabulary"]:
    inputs = {name: value.cpu().float() if value.is_floating_point() else value.cpu() for name, value in probe.items()}
    with torch.no_grad():
        logits: Tensor = model(**inputs, use_cache=False).logits
    return logits.float()


def save_merged(model: Any, policy: Policy, out: Path) -> None:
    """Write a whole model into `out`: config, float32 weights as safetensors, tokenizer and processor files.

    Weights stay float32 on disk whatever the policy's dtype, since the steps of a small learning rate are below
    bfloat16's resolution; loading rounds them again if `model.dtype` asks for that.
    """
    model.save_pretrained(str(out))
    policy.processor.save_pretrained(str(out))
