"""What a model's vision side makes of pictures, computed apart, so that several passes and prompts can share it."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

import torch

from csr_core.policy.prompt import join_features

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


class Pictures:
    """Features of pictures by content: those of the last ones are kept, for further prompts on the same pictures."""

    KEPT = 128

    def __init__(self, inner: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._inner, self._device, self._dtype = inner, device, dtype
        self._features: OrderedDict[bytes, Any] = OrderedDict()
        self.looked_at = 0

    def inputs(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Model inputs of a batch of samples' pictures (the processor's tensors, on the CPU), in place of their pixels.

        One sample's pictures go through the vision tower together, in one pass.
        """
        keys = [_content(sample) for sample in samples]
        for key, sample in zip(keys, samples, strict=True):
            if key not in self._features:
                self._features[key] = _slim(picture_features(self._inner, self._moved(sample)))
                self.looked_at += 1
            self._features.move_to_end(key)
        found = _joined([self._features[key] for key in keys])
        while len(self._features) > self.KEPT:
            self._features.popitem(last=False)
        names = without_pixels(samples[0])
        rest = {name: join_features([sample[name] for sample in samples]) for name in names}
        return {**self._moved(rest), "mm_encoder_outputs": {"image": found}}

    def _moved(self, features: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.to(self._device, self._dtype if value.is_floating_point() else None)
            for name, value in features.items()
        }


def _content(sample: dict[str, Any]) -> bytes:
    digest = blake2b(digest_size=16)
    for name, value in sorted(sample.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return digest.digest()


_LAYERED = "deepstack_features"  # Qwen3-VL: a list with an entry for each layer that takes them in


def _slim(out: Any) -> Any:
    """Without what the language side does not read."""
    return type(out)(**{name: out[name] for name in ("pooler_output", _LAYERED) if out.get(name) is not None})


def _joined(outputs: Sequence[Any]) -> Any:
    first = outputs[0]
    if len(outputs) == 1:
        return first
    joined: dict[str, Any] = {}
    for name in first:
        parts = [out[name] for out in outputs]
        layers = [_behind_one_another(layer) for layer in zip(*parts, strict=True)] if name == _LAYERED else None
        joined[name] = _behind_one_another(parts) if layers is None else layers
    return type(first)(**joined)


def _behind_one_another(parts: Sequence[Any]) -> Any:
    """Tensors of all pictures as one; sequences with a tensor for each picture as one sequence."""
    return torch.cat(list(parts)) if torch.is_tensor(parts[0]) else [picture for part in parts for picture in part]
