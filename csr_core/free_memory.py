"""How much memory is free now, and what a model's passes take of it: measured on the model at hand, not guessed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

USED = 0.8  # share of the free memory that is planned with


def free_bytes(device: torch.device) -> int:
    """Memory that can be had now; on a CPU half of it, since others work beside."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    import psutil

    return int(psutil.virtual_memory().available) // 2


def widest_bytes(model: torch.nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes that go into and come out of the widest module of `model` during `forward()`, without gradients."""
    widest = 0

    def measure(module: torch.nn.Module, given: Any, found: Any) -> None:
        nonlocal widest
        tensors = [one for one in (*given, *(found if isinstance(found, tuple) else (found,))) if torch.is_tensor(one)]
        widest = max(widest, sum(one.numel() * one.element_size() for one in tensors))

    hooks = [module.register_forward_hook(measure) for module in model.modules()]
    try:
        with torch.inference_mode():
            forward()
    finally:
        for hook in hooks:
            hook.remove()
    return widest


def saved_bytes(forward: Callable[[], Any]) -> int:
    """Bytes that `forward()` keeps for its backward pass, model parameters left out; each storage counts once."""
    storages: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = forward()
    del out
    return sum(storages.values())
