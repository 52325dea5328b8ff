"""DPO with LoRA on vision pairs: TRL's trainer, PEFT's adapters, their public interface only.

Loss of one pair (equation 7 of the DPO paper, arXiv 2305.18290), x picture and prompt, y+ chosen, y- rejected:

    L = -log sigmoid(beta * [(log p(y+|x) - log r(y+|x)) - (log p(y-|x) - log r(y-|x))])

with p the policy and r the reference, the model the iteration started from. With `likelihood_weight` w > 0 there is
added w * (mean over the batch's chosen tokens of -log p). At the start p = r, so L = ln 2 = 0.693.

Checkpoints are the trainer's own: weights as safetensors; optimizer, scheduler and random states as torch files, which
transformers 5 loads with `weights_only=True`, so no pickled code is ever run. It also writes `training_args.bin` there,
a pickle that nothing reads; the whole folder is removed when training is done.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from csr_core.config import FinetuneSettings
from csr_core.dpo.fitting import fitted
from csr_core.dpo.hidden import give_hidden_states
from csr_core.dpo.pairs import PairCollator, Pairs
from csr_core.dpo.ranks import by_first, ranks
from csr_core.dpo.sharded import fsdp_config, keep_precision
from csr_core.dpo.shared import SharedPrompts, shares_prompts
from csr_core.dpo.targets import adapts_more_than_language, checked_targets
from csr_core.errors import InputError, SettingsError
from csr_core.policy import Policy
from csr_core.policy.adapters import TRAINED, is_adapted
from csr_core.progress import Progress
from csr_core.records import read_json, write_json
from csr_core.search.passes import base_model

if TYPE_CHECKING:
    from trl import DPOConfig

CHECKPOINT_SECONDS = 300.0  # a kill costs at most this much work; shorter runs write no checkpoint at all

_KEPT = ("loss", "grad_norm", "learning_rate", "epoch", "entropy", "mean_token_accuracy")
_KEPT_GROUPS = ("rewards/", "logps/", "logits/")


@dataclass(frozen=True)
class Trained:
    """The trained PeftModel and a row for each step."""

    model: Any
    log: list[dict[str, float]]


def train(
    policy: Policy,
    pairs: Pairs,
    settings: FinetuneSettings,
    seed: int,
    max_pixels: int,
    work: Path,
    fsdp: bool = False,
) -> Trained:
    """Train an adapter on `pairs`; go on from a checkpoint in `work` if a run on the same rows was interrupted.

    `policy.model` is either a plain model, which gets a fresh adapter and is its own reference with the adapter off, or
    a PeftModel with a trainable adapter, whose start is kept as the frozen reference. It is changed in place.

    Among several ranks `pairs` are the same in each, and `settings` are the share of one. With `fsdp` the model, which
    is on the CPU, is sharded over them.

    Raises:
        SettingsError: the settings cannot be used with this model or machine.
        TrainingError: the loss or an adapter weight is no longer a number.
    """
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import DPOTrainer

    from csr_core.dpo.trainer import RanksTrainer
    from csr_core.dpo.watch import TrainingError, Watch

    _check_machine(policy)
    collator = _collator(policy, pairs, max_pixels)
    lora = None if is_adapted(policy.model) else _lora(policy, settings)
    by_first(lambda: _same_run(work, pairs, settings, seed))
    settings = settings if fsdp else fitted(policy, collator, pairs.rows, settings, lora)
    steps = total_steps(len(pairs.rows), settings)
    with Progress("finetune", total=steps, unit="steps") as bar, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the libraries' deprecations of each other's names
        trainer = (DPOTrainer if ranks() == 1 else RanksTrainer)(
            model=policy.model,
            args=trainer_settings(policy, settings, steps, seed, work, fsdp),
            train_dataset=Dataset.from_list(_with_lengths(pairs.rows)),
            data_collator=collator,
            processing_class=policy.processor,
            peft_config=lora,
            callbacks=[Watch(bar, CHECKPOINT_SECONDS)],
        )
        trainer.remove_callback(PrinterCallback)
        _only_trained_dropout(trainer.model)
        _float32_adapter(trainer.model)
        if fsdp:
            keep_precision(trainer.accelerator, _dtype(policy))
        if collator.shared:
            SharedPrompts(trainer.model)
        if policy.family.text_part:
            give_hidden_states(base_model(trainer.model), policy.family.text_part)
        checkpoint = by_first(lambda: last_checkpoint(work))
        if checkpoint is not None and (checkpoint / "adapter_model.safetensors").is_file():
            # transformers before 5.2x loads the frozen "ref" alone where a checkpoint has that beside the trained one.
            trainer.model.load_adapter(str(checkpoint), TRAINED, is_trainable=True)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    for name, value in trainer.model.named_parameters():
        own = value.to_local() if hasattr(value, "to_local") else value  # each rank looks at its shard
        if value.requires_grad and not bool(torch.isfinite(own).all()):
            raise TrainingError(f"{name} holds values that are no numbers after training: lower finetune.learning_rate")
    return Trained(trainer.model, _log_rows(trainer.state.log_history))


def _collator(policy: Policy, pairs: Pairs, max_pixels: int) -> PairCollator:
    """The form of batch the model goes along with: each prompt once for both answers, or twice."""
    plain, shared = (PairCollator(policy, max_pixels, shared) for shared in (False, True))
    if by_first(lambda: shares_prompts(policy, plain(pairs.rows[:1]), shared(pairs.rows[:1]))):
        return shared
    kind = type(base_model(policy.model)).__name__
    print(f"{kind} does not share prompts between answers: training reads each twice", file=sys.stderr, flush=True)
    return plain


def total_steps(pairs: int, settings: FinetuneSettings) -> int:
    """Optimizer steps of the whole training: e.g. 240 pairs, batches of 16, 2 epochs: 15 batches twice, 30 steps."""
    batches = math.ceil(pairs / (settings.batch_size * ranks()))
    return max(1, math.ceil(settings.epochs * math.ceil(batches / settings.accumulation)))


def trainer_settings(
    policy: Policy, settings: FinetuneSettings, steps: int, seed: int, work: Path, fsdp: bool = False
) -> DPOConfig:
    """TRL's configuration. Its own defaults would use bfloat16, warm-free linear decay and silence LoRA's dropout."""
    from trl import DPOConfig

    weight = settings.likelihood_weight
    warmup = math.ceil(settings.warmup_share * steps)
    constant = "constant_with_warmup" if warmup else "constant"
    on_cpu = policy.device.type == "cpu" and not (fsdp and torch.cuda.is_available())
    return DPOConfig(
        output_dir=str(work),
        beta=settings.beta,
        loss_type=["sigmoid", "sft"] if weight > 0 else ["sigmoid"],
        loss_weights=[1.0, weight] if weight > 0 else None,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=constant if settings.scheduler == "constant" else settings.scheduler,
        warmup_steps=warmup,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        gradient_checkpointing=settings.gradient_checkpointing,
        max_length=None,  # cutting would cut picture tokens; rows that are too long were left out before
        disable_dropout=False,  # it would take the adapter's dropout too; see _only_trained_dropout
        bf16=_dtype(policy) is torch.bfloat16,
        fp16=_dtype(policy) is torch.float16,
        use_cpu=on_cpu,
        fsdp=fsdp or None,
        fsdp_config=fsdp_config(policy.model) if fsdp else None,
        ddp_find_unused_parameters=adapts_more_than_language(policy.model, settings.target_modules),
        dataloader_pin_memory=not on_cpu,
        seed=seed,
        data_seed=seed,
        train_sampling_strategy="group_by_length" if settings.group_by_length else "random",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would hide a loss that is no number
        save_strategy="no",  # by the clock instead: Watch
        save_total_limit=1,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        log_level_replica="error",
    )


def _with_lengths(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With the trainer's column for batches of like length; pictures of one model are about equally long."""
    return [{**row, "length": max(len(row["chosen_ids"]), len(row["rejected_ids"]))} for row in rows]


def _lora(policy: Policy, settings: FinetuneSettings) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=checked_targets(policy.model, settings.target_modules),
        task_type="CAUSAL_LM",
    )


def check_continued(model: Any, settings: FinetuneSettings) -> None:
    """The previous iteration's adapter is trained further as it is, so its shape must be what the settings ask for.

    Raises:
        SettingsError: rank or alpha differ.
    """
    config = model.peft_config[TRAINED]
    for name, is_now, asked in (
        ("lora_rank", config.r, settings.lora_rank),
        ("lora_alpha", config.lora_alpha, settings.lora_alpha),
    ):
        if is_now != asked:
            raise SettingsError(
                f"finetune.{name} is {asked}, but the previous iteration's adapter, which carry: adapter goes on with, "
                f"has {is_now}: set it back, or set finetune.carry to 'merged' for a fresh adapter each iteration"
            )


def _only_trained_dropout(model: Any) -> None:
    """Switch off dropout outside the trained adapter: in the reference it would make another model of it.

    It is a module, or a number that a module hands to a function (attention's, in transformers).
    """
    for name, module in model.named_modules():
        if name.endswith(f"lora_dropout.{TRAINED}"):
            continue
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for held, value in list(vars(module).items()):
            if "drop" in held and isinstance(value, float):
                setattr(module, held, 0.0)


def _float32_adapter(model: Any) -> None:
    """On a quantised base TRL turns the adapter into bfloat16, in which steps of a small learning rate are lost."""
    for value in model.parameters():
        if value.requires_grad:
            value.data = value.data.float()


def _dtype(policy: Policy) -> torch.dtype:
    dtype: torch.dtype = policy.model.dtype
    return dtype


def _check_machine(policy: Policy) -> None:
    if policy.device.type == "cpu" and _dtype(policy) is torch.float16:
        raise SettingsError("model.dtype is float16, which cannot be trained on a CPU: set float32 or bfloat16")
    if policy.device.type == "cuda" and ranks() == 1 and torch.cuda.device_count() > 1:
        raise SettingsError(
            f"{torch.cuda.device_count()} GPUs are visible and this training is one process, which uses one: set "
            "run.num_processes to null, or start with CUDA_VISIBLE_DEVICES=0 (or another number) in the environment"
        )


def _same_run(work: Path, pairs: Pairs, settings: FinetuneSettings, seed: int) -> None:
    """Forget checkpoints of a run on other rows (a picture gone in between), settings, ranks or library versions."""
    from importlib.metadata import version

    rows = hashlib.sha256(json.dumps(pairs.rows, sort_keys=True).encode()).hexdigest()
    libraries = {name: version(name) for name in ("torch", "transformers", "trl", "peft")}
    now = {"rows": rows, "settings": settings.model_dump(), "seed": seed, "libraries": libraries, "ranks": ranks()}
    note = work / "run.json"
    if not note.is_file() or read_json(note) != now:
        shutil.rmtree(work, ignore_errors=True)
        write_json(note, now)


def last_checkpoint(work: Path) -> Path | None:
    """The newest whole checkpoint of `work`; the trainer writes `trainer_state.json` last, so it marks a whole one.

    Of several ranks each writes its random state, at about that time: torch's files are archives, whose end tells.
    """
    states = [f"rng_state_{each}.pth" for each in range(ranks())] if ranks() > 1 else []
    found = sorted(work.glob("checkpoint-*"), key=lambda folder: int(folder.name.rpartition("-")[2]), reverse=True)
    for folder in found:
        try:
            whole = read_json(folder / "trainer_state.json")["global_step"] > 0
        except (OSError, ValueError, KeyError):
            whole = False
        if whole and all(zipfile.is_zipfile(folder / name) for name in states):
            return folder
        shutil.rmtree(folder)  # killed while it was written
    return None


def _log_rows(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The trainer's log without times: a row a step."""
    return [
        {"step": entry["step"]}
        | {name: value for name, value in entry.items() if name in _KEPT or name.startswith(_KEPT_GROUPS)}
        for entry in history
        if "loss" in entry
    ]


def probe_batch(policy: Policy, pairs: Pairs, max_pixels: int) -> dict[str, torch.Tensor]:
    """Model inputs of the first pair, to compare two forms of a model on."""
    batch = PairCollator(policy, max_pixels)(pairs.rows[:1])
    del batch["completion_mask"]
    if not batch:
        raise InputError(
            "the processor gives no inputs for the first pair: set finetune.carry to 'adapter', and please "
            "report the model"
        )
    return batch
