"""What an iteration made, as a folder for others: a PEFT adapter, or a whole model; with its card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from csr_core.config import Settings
from csr_core.digests import Digests
from csr_core.errors import InputError
from csr_core.layout import Layout
from csr_core.model_card import model_card, read_metrics
from csr_core.params import flatten, settings_from
from csr_core.records import publish
from csr_core.report import stop
from csr_core.report.story import guards
from csr_core.report.story import noted as noted_settings

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Exported:
    """The folder, and of merged weights which share of the adapter's change is left after rounding (1: all)."""

    folder: Path
    kept: float | None = None


def export_model(
    settings: Settings, layout: Layout, iteration: int, out: Path, merged: bool = False, dtype: str | None = None
) -> Exported:
    """Write the model of `iteration` to `out`: its adapter, or with `merged` base and adapter in one.

    What the stages noted of their settings when they ran goes over `settings`, which may have changed since.

    `dtype` of merged weights: None takes the base checkpoint's own. A run with `finetune.carry: merged` has no adapter,
    and is always written whole.

    Raises:
        InputError: there is no such model, or `out` holds something already.
    """
    model = layout.model(iteration)
    if not model.is_dir():
        raise InputError(
            f"{model} is not there: run iteration {iteration} first, or name another with --iteration, or the run's "
            "folder with --root"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something already: name a new folder, or empty it")
    noted = noted_settings(layout, iteration)
    settings = _as_noted(settings, noted)
    adapted = (model / "adapter_config.json").is_file()
    work = out.with_name(f".{out.name}.unfinished")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    kept, written_as = None, None
    if adapted and not merged:
        for name in ADAPTER_FILES:
            shutil.copyfile(model / name, work / name)
    else:
        kept, written_as = _write_whole(settings, model, adapted, work, dtype)
    metrics = read_metrics([layout.metrics(k) for k in range(iteration + 1)])
    sources = _sources(settings, layout, iteration)
    card = model_card(_told(settings, noted), iteration, sources, metrics, written_as, _stopped(layout, iteration))
    (work / "README.md").write_text(card, "utf-8")
    publish(work, out)
    return Exported(out, kept)


def _as_noted(settings: Settings, noted: Mapping[str, Any]) -> Settings:
    """`settings` with the run's own values; a base model that is no longer where the run had it stays as given."""
    from csr_core.stages.models import policy_files

    tree = settings.model_dump()
    for name, value in noted.items():
        section, _, key = name.rpartition(".")
        part = tree.get(section, {}) if section else tree
        if key in part:
            part[key] = value
    found = settings_from(tree, "what the run noted of its settings")
    return found if policy_files(found.model) else found.model_copy(update={"model": settings.model})


def _told(settings: Settings, noted: Mapping[str, Any]) -> dict[str, Any]:
    """section.key -> value for the card.

    Where the stages noted theirs, what none of them noted decides no result, and may be of another run: it is left out.
    """
    flat = flatten(settings)
    return {name: noted.get(name, flat[name]) for name in flat if name in noted or name == "model.path" or not noted}


def _stopped(layout: Layout, iteration: int) -> str:
    """That a guard stopped `iteration`, and what it saw; empty where none did."""
    if not (told := stop(layout, iteration).removeprefix("But a guard")):
        return ""
    seen = [sentence for one in guards(layout, iteration)[-1:] for _, sentence in one["fired"]]
    return " ".join([f"A guard{told}", *(f"{sentence.rstrip('.')}." for sentence in seen)])


def _write_whole(
    settings: Settings, model: Path, adapted: bool, out: Path, dtype: str | None
) -> tuple[float | None, str]:
    """Merge in float32, round, and write; returns what rounding left of the adapter's change, and the dtype."""
    from transformers import AutoConfig

    from csr_core.policy import load_policy
    from csr_core.policy.adapters import merge_float32
    from csr_core.policy.loading import model_path

    own = settings.model.model_copy(update={"dtype": "float32", "device": "cpu"})
    policy = load_policy(own, model)
    stored = AutoConfig.from_pretrained(model_path(settings.model)).dtype or torch.float32
    target = DTYPES[dtype] if dtype else stored
    kept = None
    if adapted:
        before = {name: value.clone() for name, value in _adapted_weights(policy.model).items()}
        policy.model = merge_float32(policy.model)
        after = dict(policy.model.named_parameters())
        kept = rounded_share([(before[name], after[name].data) for name in before], target)
    policy.model.to(target).save_pretrained(str(out))
    policy.processor.save_pretrained(str(out))
    return kept, str(target).removeprefix("torch.")


def _adapted_weights(model: Any) -> dict[str, Tensor]:
    """The base's weights that the adapter changes, by their names in the base."""
    return {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value.data
        for name, value in model.named_parameters()
        if ".base_layer.weight" in name
    }


def rounded_share(changes: list[tuple[Float[Tensor, "out in"], Float[Tensor, "out in"]]], dtype: torch.dtype) -> float:
    """Which share of a change of weights is left once they are rounded to `dtype`.

    The projection of what rounded weights changed by on what they should have: <r(W') - r(W), W' - W> / |W' - W|^2,
    over all pairs (W, W'). 1 where nothing is lost, 0 where the steps are below the dtype's resolution.
    """
    above = below = 0.0
    for before, after in changes:
        asked = (after - before).double()
        made = after.to(dtype).double() - before.to(dtype).double()
        above += float((made * asked).sum())
        below += float((asked * asked).sum())
    return above / below if below else 1.0


def _sources(settings: Settings, layout: Layout, iteration: int) -> dict[str, str | None]:
    from csr_core.stages.models import policy_files, reward_files

    digests = Digests(layout.state / "digests" / "export.json")
    found: dict[str, str | None] = {}
    for path in policy_files(settings.model):
        found["base model"] = digests.path(path)
    for name, path in zip(settings.reward.models, reward_files(settings.reward), strict=False):
        found[f"reward model {name}"] = digests.path(path)
    for k in range(1, iteration + 1):
        found[f"preference pairs of iteration {k}"] = digests.path(layout.preferences(k))
    found[f"model of iteration {iteration}"] = digests.path(layout.model(iteration))
    digests.save()
    return found
