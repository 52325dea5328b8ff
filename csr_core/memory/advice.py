"""Settings with which a stage that does not fit would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from csr_core.config import Settings
from csr_core.memory.stages import Planned, needs

Change = tuple[str, Any]  # dotted key, value


def with_changes(settings: Settings, changes: Sequence[Change]) -> Settings:
    """`settings` with other values, not validated again."""
    for key, value in changes:
        section, _, name = key.partition(".")
        part = getattr(settings, section).model_copy(update={name: value})
        settings = settings.model_copy(update={section: part})
    return settings


def changes_that_fit(plan: Planned, stage: str, have: int) -> tuple[list[Change], int] | None:
    """The fewest of the stage's dials, mildest first, with which its need is at most `have`, and that need.

    None where even all of them together do not help.
    """
    taken: list[Change] = []
    for change in _dials(plan, stage):
        taken.append(change)
        if _need(plan, stage, taken) <= have:
            break
    else:
        return None
    for change in list(taken):  # a dial before the last one may not be needed with it
        fewer = [other for other in taken if other is not change]
        if fewer and _need(plan, stage, fewer) <= have:
            taken = fewer
    return taken, _need(plan, stage, taken)


def _need(plan: Planned, stage: str, changes: Sequence[Change]) -> int:
    changed = replace(plan, settings=with_changes(plan.settings, changes))
    return next(need.total for need in needs(changed) if need.stage == stage)


def _dials(plan: Planned, stage: str) -> Iterator[Change]:
    """Least harmful first: what costs time alone, then what costs precision."""
    settings = plan.settings
    if stage in ("generate", "evaluate") and (getattr(settings, stage).batch_size or 1) > 1:
        yield f"{stage}.batch_size", None
    if stage == "finetune":
        if not settings.finetune.gradient_checkpointing:
            yield "finetune.gradient_checkpointing", True
        if settings.finetune.batch_size > 1:
            yield "finetune.batch_size", 1
            yield "finetune.accumulation", settings.finetune.batch_size * settings.finetune.accumulation
    if stage == "score":
        return
    if plan.element == 4:
        yield "model.dtype", "bfloat16"
    if plan.device == "cuda" and settings.model.quantization is None and settings.finetune.carry == "adapter":
        yield "model.quantization", "nf4"


def told(changes: Sequence[Change]) -> str:
    """As `--set` takes them; of several values of one key the last."""
    last = dict(changes)
    return ", ".join(f"{key}={_yaml(value)}" for key, value in last.items())


def _yaml(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
