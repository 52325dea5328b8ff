"""Stage `finetune`: DPO with LoRA on an iteration's preference pairs."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

from csr_core.config import Settings
from csr_core.dpo.held_out import accuracies, held_out
from csr_core.dpo.pairs import Pairs, usable_pairs
from csr_core.dpo.ranks import by_first, rank, ranks
from csr_core.dpo.sharded import on_cpu, whole_adapter
from csr_core.dpo.train import Trained, check_continued, probe_batch, train
from csr_core.policy import Policy, load_policy
from csr_core.policy.adapters import adapter_parameters, is_adapted, merge_float32, save_adapter, save_merged
from csr_core.records import PREFERENCES, read_json, read_table, write_json, write_jsonl
from csr_core.stages.launch import launch, process_count


def finetune(settings: Settings, iteration: int, preferences: Path, adapter: Path | None, out: Path) -> dict[str, Any]:
    """Train what `adapter` (`models/iter_{K-1}`; None: the base) stands for on `preferences` and write it to `out`.

    `out` gets the PEFT adapter's files or, with finetune.carry = merged, a whole model; training.jsonl with a row for
    each step; summary.json. `out/.trainer` holds checkpoints meanwhile: an interrupted run goes on from there.
    With run.num_processes or several GPUs it runs once more in each of as many processes, the first of which writes.

    Returns the summary: pairs trained on, left_out, steps, adapter_parameters, carry; `final`: loss, rewards/margins
    and rewards/accuracies, each the mean of the last tenth of the steps; `held_out`: see `csr_core.dpo.held_out`.

    Raises:
        InputError: no pair can be used, or the model cannot be loaded.
        SettingsError: settings that do not fit the model, the machine or the previous iteration's adapter.
        TrainingError: the loss is no longer a number.
    """
    summary, work = out / "summary.json", out / ".trainer"
    if summary.is_file():  # finished, killed while tidying up
        shutil.rmtree(work, ignore_errors=True)
        return dict(read_json(summary))
    if ranks() == 1 and (count := process_count(settings)) > 1:
        launch(count, settings.model.device, finetune, settings, iteration, preferences, adapter, out)
        return dict(read_json(summary))
    table = read_table(preferences, PREFERENCES)
    policy = _start(settings, adapter)
    pixels, tokens = settings.data.max_pixels, settings.finetune.max_tokens
    pairs = by_first(lambda: usable_pairs(policy, table, pixels, tokens))
    share, seed = settings.finetune.shared_by(ranks()), derived_seed(settings.seed, iteration)
    pairs, held = held_out(pairs, settings.finetune.held_out_share, seed)
    trained = train(policy, pairs, share, seed, pixels, work, settings.run.fsdp)
    parameters = adapter_parameters(trained.model)
    weights = whole_adapter(trained.model) if settings.run.fsdp else None
    if rank() > 0:
        return {}
    # A sharded model answers only to all ranks at once.
    whole = held and not settings.run.fsdp
    found = accuracies(policy, trained.model, pairs.rows, held, pixels) if whole else None
    if settings.finetune.carry == "adapter":
        save_adapter(trained.model, out, settings.model.path, weights)
    else:
        probe = probe_batch(policy, pairs, settings.data.max_pixels)
        save_merged(merge_float32(trained.model, probe), policy, out)
    write_jsonl(out / "training.jsonl", trained.log)
    result = _summary(settings, pairs, trained, parameters)
    result["held_out"] = found
    write_json(summary, result)
    shutil.rmtree(work, ignore_errors=True)
    return result


def _start(settings: Settings, adapter: Path | None) -> Policy:
    """The policy the iteration starts from, ready to be trained; also its reference."""
    further = settings.finetune.carry == "adapter"
    model = on_cpu(settings.model) if settings.run.fsdp else settings.model
    policy = load_policy(model, adapter, trainable=further)
    if is_adapted(policy.model):
        if further:
            check_continued(policy.model, settings.finetune)
        else:  # the iterations before carried an adapter: go on from adapter + base as one model
            dtype = policy.model.dtype
            policy.model = merge_float32(policy.model).to(policy.device, dtype)
    return policy


def derived_seed(seed: int, iteration: int) -> int:
    """A seed of 31 bits for this stage of this iteration; equal for equal arguments on every machine."""
    return int.from_bytes(hashlib.sha256(f"finetune/{seed}/{iteration}".encode()).digest()[:4], "big") >> 1


def _summary(settings: Settings, pairs: Pairs, trained: Trained, parameters: int) -> dict[str, Any]:
    last = trained.log[-max(1, len(trained.log) // 10) :]
    names = ("loss", "rewards/margins", "rewards/accuracies")
    return {
        "pairs": len(pairs.rows),
        "left_out": pairs.left_out,
        "steps": len(trained.log),
        "final": {name: round(sum(row[name] for row in last) / len(last), 6) for name in names},
        "adapter_parameters": parameters,
        "carry": settings.finetune.carry,
    }
