"""What a model's vision side makes of pictures, computed apart, so that several passes and prompts can share it."""

from __future__ import annotations

import inspect
from typing import Any

import torch

PIXELS = "pixel_"  # how the processors' names of pictures begin, and of what goes with them into the vision tower


def takes_features(inner: Any) -> bool:
    """Whether `inner`, a VLM without its head, can be given picture features in place of pictures."""
    return hasattr(inner, "get_image_features") and "mm_encoder_outputs" in inspect.signature(inner.forward).parameters


def vision_is_frozen(model: Any) -> bool:
    """Whether nothing outside the language model is trained, so that features do not change with training."""
    decoder = {id(parameter) for parameter in model.get_decoder().parameters()}
    head = model.get_output_embeddings()
    decoder |= {id(parameter) for parameter in head.parameters()} if head is not None else set()
    return not any(one.requires_grad for one in model.parameters() if id(one) not in decoder)


@torch.no_grad()
def picture_features(inner: Any, features: dict[str, Any]) -> Any:
    """The features of a batch's pictures, as `mm_encoder_outputs={"image": ...}` takes them.

    `features`: the pictures' tensors as a processor gives them (pixel_values, grid sizes, ...).
    """
    known = inspect.signature(inner.get_image_features).parameters
    return inner.get_image_features(
        **{name: value for name, value in features.items() if name in known}, return_dict=True
    )


def without_pixels(features: dict[str, Any]) -> dict[str, Any]:
    """What the language side still needs to know of the pictures (grid sizes, picture sizes, ...)."""
    return {name: value for name, value in features.items() if not name.startswith(PIXELS)}
