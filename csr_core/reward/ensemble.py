"""Several contrastive models as one: their relevance is the mean of theirs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from csr_core.reward.relevance import Embedder

if TYPE_CHECKING:
    from PIL.Image import Image


class Ensemble:
    """An `Embedder` whose cosine of picture and text is the mean of its members' cosines.

    A row is the members' rows side by side, divided by the square root of their number: the product of two such rows is
    (1/n) * sum of the members' products, and unit rows stay unit rows.
    """

    def __init__(self, members: Sequence[Embedder]) -> None:
        self.members = tuple(members)
        self._shapes: list[torch.Size] = []

    def prepare(self, image: Image) -> Float[Tensor, " values"]:
        """The members' pixels, which are of different sizes, one behind the other."""
        pixels = [member.prepare(image) for member in self.members]
        self._shapes = [one.shape for one in pixels]
        return torch.cat([one.flatten() for one in pixels])

    def embed_images(self, pixels: Float[Tensor, "images values"]) -> Float[Tensor, "images dim"]:
        parts = pixels.split([shape.numel() for shape in self._shapes], dim=1)
        rows = [
            member.embed_images(part.reshape(-1, *shape))
            for member, part, shape in zip(self.members, parts, self._shapes, strict=True)
        ]
        return torch.cat(rows, dim=1) / math.sqrt(len(rows))

    def embed_texts(self, texts: Sequence[str]) -> tuple[Float[Tensor, "texts dim"], list[bool]]:
        """A text counts as split where any member had to split it."""
        found = [member.embed_texts(texts) for member in self.members]
        rows = torch.cat([rows for rows, _ in found], dim=1) / math.sqrt(len(found))
        return rows, [any(split) for split in zip(*(split for _, split in found), strict=True)]
