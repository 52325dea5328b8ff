"""The last hidden states of models that are not made of a backbone and a head, for a loss that asks for them.

TRL's trainer takes hidden states from `model.base_model` and multiplies them with the head itself, so that no logits of
whole rows are held. Of a model whose language model has its own head (InstructBLIP), `base_model` is the model itself.
"""

from __future__ import annotations

from typing import Any


def give_hidden_states(model: Any, part: str) -> None:
    """Have `model` tell in `last_hidden_state` what stood before the head of its language model `part`."""
    if hasattr(model, model.base_model_prefix):
        return
    model.register_forward_pre_hook(_ask, with_kwargs=True)
    model.register_forward_hook(lambda module, args, out: _tell(out, f"{part}_outputs"))


def _ask(module: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    return args, {**given, "output_hidden_states": True}


def _tell(out: Any, name: str) -> Any:
    inside = out.get(name) if hasattr(out, "get") else None
    if inside is not None:
        out["last_hidden_state"] = inside.hidden_states[-1]
    return out
