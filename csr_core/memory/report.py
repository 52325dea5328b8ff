"""What `csr check` says of memory: for each stage the need, what there is, and which settings would fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from csr_core.config import Settings
from csr_core.memory.advice import changes_that_fit, told
from csr_core.memory.shapes import Known, known, skeleton, tower_shape, vlm_shape
from csr_core.memory.stages import Need, Planned, fitting_batch, needs, usual_load
from csr_core.policy.loading import resolve_device

GIB = 1024**3
CARDS = (8, 12, 16, 24, 32, 40, 48, 80, 141)  # GB, as cards are sold
LARGE = 1_000_000_000  # parameters of a model that one would not run on a CPU


@dataclass(frozen=True)
class Estimate:
    """The plan with what goes with it. have: bytes that are free on the plan's device."""

    plan: Planned
    known: Known
    have: int


def estimate(settings: Settings, folder: Path | None) -> Estimate | None:
    """From the configuration alone; None where the model's is neither in `folder` nor known to this project.

    Raises:
        SettingsError: settings that do not go with the model.
    """
    found = known(settings.model, folder)
    if found is None:
        return None
    model = skeleton(found.config, settings.model.trust_remote_code)
    vlm = vlm_shape(model, found.photo, settings.finetune.target_modules)
    device = resolve_device(settings.model.device)
    plan = Planned(settings, vlm, tower_shape(settings.reward), device.type, usual_load(settings, vlm))
    return Estimate(plan, found, free(device))


def free(device: torch.device) -> int:
    """Bytes that can be had on the device now."""
    if device.type == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available)


def lines(found: Estimate) -> Iterator[tuple[bool, str]]:
    """(fits, text) for each stage on this machine; then, for a large model where there is no GPU, for a GPU."""
    plan, where = found.plan, "on this GPU" if found.plan.device == "cuda" else "here"
    for need in needs(plan):
        if not need.parts:
            yield True, f"{need.stage}: unknown, since the sizes of the reward model are"
            continue
        fits = need.total <= found.have
        rest = _room(plan, need, found.have) if fits else _too_much(plan, need, found.have)
        yield fits, f"{need.stage} needs about {_gib(need.total)} GiB, {_gib(found.have)} free {where}: {rest}"
    if plan.device != "cuda" and plan.vlm.parameters > LARGE:
        yield from _on_a_gpu(plan)


def _room(plan: Planned, need: Need, have: int) -> str:
    if need.stage == "generate" and plan.settings.generate.batch_size is None:
        return f"fits, with about {fitting_batch(plan, have)} nodes decoded together"
    return "fits"


def _too_much(plan: Planned, need: Need, have: int) -> str:
    parts = ", ".join(f"{name} {_gib(size)}" for name, size in sorted(need.parts.items(), key=lambda one: -one[1]))
    changes = changes_that_fit(plan, need.stage, have)
    if changes is None:
        return f"does not fit, whatever the settings ({parts})"
    return f"does not fit ({parts}); would with {told(changes[0])}: {_gib(changes[1])} GiB"


def _on_a_gpu(plan: Planned) -> Iterator[tuple[bool, str]]:
    for quantization in (plan.settings.model.quantization, "nf4"):
        model = plan.settings.model.model_copy(update={"quantization": quantization})
        there = replace(plan, settings=plan.settings.model_copy(update={"model": model}), device="cuda")
        found = needs(there)
        each = ", ".join(f"{need.stage} {_gib(need.total)}" for need in found if need.parts)
        most = max(need.total for need in found)
        card = next((size for size in CARDS if size * 1e9 >= most), None)
        name = "bfloat16" if there.element == 2 else "float32"
        how = name if quantization is None else f"{name} with model.quantization={quantization}"
        yield True, f"on a GPU, {how}: {each} GiB: {f'a card of {card} GB' if card else 'more than one card holds'}"
        if quantization is not None:
            return


def download(found: Estimate) -> int:
    """Bytes of the model's weights on the hub."""
    return found.plan.vlm.parameters * found.known.stored_bytes


def _gib(size: int) -> str:
    return f"{size / GIB:.1f}"
