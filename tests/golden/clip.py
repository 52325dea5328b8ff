"""The golden CLIP, loaded the transformers way: its layout is not open_clip's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize


class TransformersClip:
    """What `csr_core.reward` needs of a contrastive model. Texts one by one, without a cut at 77 tokens."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        self.model: Any = CLIPModel.from_pretrained(folder).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def prepare(self, image: Any) -> Tensor:
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    @torch.inference_mode()
    def embed_images(self, pixels: Tensor) -> Tensor:
        return normalize(self.model.visual_projection(self.model.vision_model(pixels).pooler_output), dim=-1)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> tuple[Tensor, list[bool]]:
        rows = [self.model.text_model(**self.tokenizer([text], return_tensors="pt")).pooler_output for text in texts]
        return normalize(self.model.text_projection(torch.cat(rows)), dim=-1), [False] * len(texts)
