"""Whether a step's pairs fit into the free memory at once, measured on the model at hand before training starts."""

from __future__ import annotations

import sys
from typing import Any

import torch

from csr_core.config import FinetuneSettings
from csr_core.dpo.pairs import PairCollator
from csr_core.dpo.ranks import least
from csr_core.dpo.shared import SharedPrompts, likelihoods
from csr_core.free_memory import USED, free_bytes, saved_bytes
from csr_core.policy import Policy
from csr_core.policy.adapters import adapter_parameters, is_adapted

STATES = 16  # bytes a trained parameter: itself, its gradient, and two moments, in float32


def fitted(
    policy: Policy, collator: PairCollator, rows: list[dict[str, Any]], settings: FinetuneSettings, lora: Any
) -> FinetuneSettings:
    """`settings` with each step computed in as many parts as the free memory asks for; its pairs stay the same.

    What the longest pair keeps for its backward pass is measured. With gradient checkpointing a pass keeps next to
    nothing, and the settings are taken as they are. `lora` is None where `policy.model` has its adapter. Ranks take
    what fits all of them.
    """
    if settings.gradient_checkpointing or settings.batch_size == 1:
        return settings
    longest = max(rows, key=lambda row: len(row["chosen_ids"]) + len(row["rejected_ids"]))
    pair, states = _needs(policy, collator([longest]), collator.shared, lora)
    room = USED * free_bytes(policy.device) - states
    most = least(max(1, int(room // max(1, pair))))
    size = max(
        count for count in range(1, settings.batch_size + 1) if settings.batch_size % count == 0 and count <= most
    )
    if size == settings.batch_size:
        return settings
    print(
        f"finetune: {settings.batch_size} pairs take {settings.batch_size * pair / 2**30:.1f} GiB, and "
        f"{max(0.0, room) / 2**30:.1f} GiB are free: each step is computed {size} pairs at a time",
        file=sys.stderr,
        flush=True,
    )
    parts = settings.batch_size // size
    return settings.model_copy(update={"batch_size": size, "accumulation": settings.accumulation * parts})


def _needs(policy: Policy, batch: dict[str, Any], shared: bool, lora: Any) -> tuple[int, int]:
    """Bytes that one pair keeps for its backward pass, and bytes of the adapter's training states."""
    from peft import get_peft_model

    with torch.random.fork_rng():  # a fresh adapter is drawn at random, and training draws its own
        model = policy.model if lora is None else get_peft_model(policy.model, lora)
    hooks = SharedPrompts(model) if shared else None
    training = model.training
    trial = Policy(model.train(), policy.processor, policy.device, policy.pad_id, policy.end_ids, policy.suppressed_ids)
    try:
        pair = saved_bytes(lambda: likelihoods(trial, batch))
        return pair, STATES * adapter_parameters(model)
    finally:
        if hooks is not None:
            hooks.remove()
        model.train(training)
        if lora is not None:
            policy.model = model.unload()
            assert not is_adapted(policy.model)
