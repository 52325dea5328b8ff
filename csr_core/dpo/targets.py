"""Which layers LoRA adapts: the linear layers of the language model, never the vision tower or the projector."""

from __future__ import annotations

import re
from typing import Any

import torch

from csr_core.errors import SettingsError


def language_linears(model: Any) -> str:
    """A regular expression that matches, in full, the names of the linear layers inside `model`'s language model.

    The language model is what `model.get_decoder()` gives. Vision parts inside of it and `lm_head` are left out. Layer
    numbers are generalised, so that the expression stays short: `language_model\\.layers\\.\\d+\\.mlp\\.up_proj|...`.

    Raises:
        SettingsError: the language model cannot be told from the rest.
    """
    decoder = model.get_decoder()
    named = dict(model.named_modules())
    root = next((name for name, module in named.items() if module is decoder), "")
    towers = [name for name, module in named.items() if _is_tower(module, decoder)]
    head = model.get_output_embeddings()
    names = [
        name
        for name, module in named.items()
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and name.startswith(f"{root}.")
        and not any(name.startswith(f"{tower}.") for tower in towers)
    ]
    if not root or not names:
        raise SettingsError(
            f"cannot find the language model inside {type(model).__name__}: set finetune.target_modules to a regular "
            r"expression that matches its linear layers in full, such as '.*language_model.*\.(q_proj|v_proj)'"
        )
    return "|".join(dict.fromkeys(_generalised(name) for name in names))


def adapts_more_than_language(model: Any, expression: str | None) -> bool:
    """Whether `expression` of the settings matches layers outside the language model.

    The loss need not depend on all of those: LLaVA leaves out the last layer of its vision tower, for instance.
    """
    if expression is None:
        return False
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    inside = {id(module) for module in base.get_decoder().modules()}
    pattern = re.compile(expression)
    return any(pattern.fullmatch(name) and id(module) not in inside for name, module in base.named_modules())


def _is_tower(module: torch.nn.Module, decoder: torch.nn.Module) -> bool:
    """A vision tower: its main input is pixels, and the language model is not a part of it."""
    pixels = getattr(module, "main_input_name", "") == "pixel_values"
    return pixels and not any(part is decoder for part in module.modules())


def _generalised(name: str) -> str:
    return r"\.".join(r"\d+" if part.isdigit() else re.escape(part) for part in name.split("."))


def checked_targets(model: Any, expression: str | None) -> str:
    """`expression` of the settings, or the language model's linear layers when it is null.

    Raises:
        SettingsError: not a regular expression, it matches no layer, or it matches `lm_head` (whose adapter TRL's
            loss would never train).
    """
    if expression is None:
        return language_linears(model)
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise SettingsError(f"finetune.target_modules is {expression!r}, not a regular expression: {error}") from error
    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    matched = [name for name in linears if pattern.fullmatch(name)]
    if not matched:
        raise SettingsError(
            f"finetune.target_modules is {expression!r}: it must match names of linear layers in full, matches none. "
            f"The model has {', '.join(list(linears)[:3])}, ...; null takes those of the language model"
        )
    if any(linears[name] is model.get_output_embeddings() for name in matched):
        raise SettingsError(
            f"finetune.target_modules is {expression!r} and matches lm_head, whose adapter would never be trained "
            "(the loss multiplies with its weight directly): leave it out of the expression"
        )
    return expression
