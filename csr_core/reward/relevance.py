"""Image relevance R_I: how well a contrastive model says a sentence matches the picture (equation 3 of the paper)."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from csr_core.config import RewardSettings
from csr_core.errors import InputError
from csr_core.free_memory import USED, free_bytes, widest_bytes
from csr_core.policy.loading import resolve_device
from csr_core.progress import doing
from csr_core.reward.chunks import TextFitter, split_to_fit

if TYPE_CHECKING:
    from PIL.Image import Image

LENGTH_STEP = 8  # tokens by which the lengths differ that texts are computed at
MOST_TEXTS = {"cpu": 256, "cuda": 2048}  # in one pass: beyond, it takes as much longer as it does more
LIVE = 4  # tables as large as those of a tower's widest module that are held at a time, attention's among them
_SIMPLE_VOCABULARY = 49408  # of open_clip's built-in tokenizer, which it takes where a configuration names none


class Embedder(Protocol):
    """What scoring needs of a contrastive model; `OpenClip` is the one in use, a test may bring transformers' CLIP."""

    def prepare(self, image: Image) -> Float[Tensor, "channels height width"]:
        """The picture as the image tower wants it, on the CPU."""

    def embed_images(self, pixels: Float[Tensor, "images channels height width"]) -> Float[Tensor, "images dim"]:
        """Unit-length embeddings, on the CPU."""

    def embed_texts(self, texts: Sequence[str]) -> tuple[Float[Tensor, "texts dim"], list[bool]]:
        """A row a text on the CPU, unit-length unless the text was split; and which texts had to be split."""


def image_relevance(
    image: Float[Tensor, " dim"], texts: Float[Tensor, "texts dim"], floor: bool = True
) -> Float[Tensor, " texts"]:
    """R_I(s) = max(100 * cos(image, s), 0): equation 3 of the paper; without `floor` 100 * cos, as the authors' code.

    `image` has unit length; a row of `texts` has unit length, or is the mean of the unit vectors of a long text's
    chunks: its product with the image is then the mean of the chunks' cosines.
    """
    relevance = 100.0 * (texts @ image)
    return relevance.clamp_min(0.0) if floor else relevance


@dataclass
class OpenClip:
    """A contrastive model loaded by open_clip, with the transform and the tokenizer that belong to it."""

    model: Any
    transform: Any
    tokenizer: Any
    device: torch.device
    batch_size: int | None = None  # texts in one pass; None: as many as the free memory holds, found once

    def __post_init__(self) -> None:
        self._fitter = TextFitter(self.tokenizer)
        self._fitting: int | None = None
        self._stops_early: bool | None = None  # found out on the first text

    def prepare(self, image: Image) -> Float[Tensor, "channels height width"]:
        pixels: Tensor = self.transform(image)
        return pixels

    @torch.inference_mode()
    def embed_images(self, pixels: Float[Tensor, "images channels height width"]) -> Float[Tensor, "images dim"]:
        """Always so many in a pass, the last filled up: what a picture gives depends on the picture alone.

        One on a CPU, which it fills; eight on a GPU.
        """
        count = 8 if self.device.type == "cuda" else 1
        rows = []
        for batch in pixels.split(count):
            full = torch.cat([batch, batch[-1:].expand(count - len(batch), *batch.shape[1:])]).to(self.device)
            rows.append(normalize(self.model.encode_image(full).float(), dim=-1)[: len(batch)].cpu())
        return torch.cat(rows)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> tuple[Float[Tensor, "texts dim"], list[bool]]:
        """Embed each text; one that is longer than the tower's context is never cut.

        A long text is split at its clauses (at words where a clause is too long itself) into chunks that fit, and its
        row is the mean of the chunks' unit vectors, so that its relevance is the mean of theirs.
        """
        chunks = [split_to_fit(text, self._fitter.fits) for text in texts]
        rows = self._embed([chunk for parts in chunks for chunk in parts])
        sizes = [len(parts) for parts in chunks]
        means = torch.stack([part.mean(dim=0) for part in rows.split(sizes)])
        return means, [size > 1 for size in sizes]

    def _texts_at_once(self, tokens: Int[Tensor, "texts context"]) -> int:
        if self.batch_size is not None:
            return self.batch_size
        if self._fitting is None:
            one = LIVE * widest_bytes(self.model, lambda: self.model.encode_text(tokens[:1].to(self.device)))
            most = MOST_TEXTS.get(self.device.type, MOST_TEXTS["cpu"])
            self._fitting = max(1, min(most, int(USED * free_bytes(self.device)) // max(1, one)))
        return self._fitting

    def _embed(self, texts: list[str]) -> Float[Tensor, "texts dim"]:
        """Texts of like length together, so that none is computed as if it filled the context."""
        tokens = self.tokenizer(texts)
        rows_at_once = self._texts_at_once(tokens)
        if self._stops_early is None:
            self._stops_early = self._can_stop_early(tokens[:1])
        ends = self._fitter.ends(tokens) if self._stops_early else [tokens.shape[1]] * len(texts)
        # The length is the text's own, whatever else there is to embed, so that its numbers are too.
        lengths = [min(tokens.shape[1], math.ceil(end / LENGTH_STEP) * LENGTH_STEP) for end in ends]
        rows: dict[int, Tensor] = {}
        for length in sorted(set(lengths)):
            places = [place for place, own in enumerate(lengths) if own == length]
            for start in range(0, len(places), rows_at_once):
                batch = places[start : start + rows_at_once]
                rows.update(zip(batch, self._encode(tokens[batch, :length]), strict=True))
        return torch.stack([rows[place] for place in range(len(texts))])

    def _encode(self, tokens: Int[Tensor, "texts tokens"]) -> Float[Tensor, "texts dim"]:
        tokens, length = tokens.to(self.device), tokens.shape[1]
        if length == self._fitter.context:
            return normalize(self.model.encode_text(tokens).float(), dim=-1).cpu()
        # What the tower holds for its whole context, cut to these tokens for this one call.
        module, prefix = (self.model.text, "text.") if hasattr(self.model, "text") else (self.model, "")
        whole = {name: getattr(module, name, None) for name in ("positional_embedding", "attn_mask")}
        cut = {f"{prefix}{name}": value[:length] for name, value in whole.items() if value is not None}
        if (mask := whole["attn_mask"]) is not None:
            cut[f"{prefix}attn_mask"] = mask[:length, :length]
        out = torch.func.functional_call(self.model, cut, kwargs={"text": tokens})
        found: Tensor = out["text_features"] if isinstance(out, dict) else out[1]
        return normalize(found.float(), dim=-1).cpu()

    def _can_stop_early(self, tokens: Int[Tensor, "1 context"]) -> bool:
        """Whether a text's embedding is the same without the padding behind its end, tried on one text.

        So it is where tokens see what is before them alone and the last one stands for the text, as in OpenAI's CLIP;
        SigLIP's towers read the padding too.
        """
        end = self._fitter.ends(tokens)[0]
        if end == tokens.shape[1]:
            tokens, end = self.tokenizer(["a"]), self._fitter.ends(self.tokenizer(["a"]))[0]
        try:
            short = self._encode(tokens[:, :end])
        except (RuntimeError, ValueError, IndexError, KeyError, TypeError):
            return False
        return bool((short - self._encode(tokens)).abs().max() < 1e-5)


@doing("loading the relevance model")
def load_relevance(settings: RewardSettings) -> Embedder:
    """Load the model that `reward.model` names, or the ensemble, in float32, ready to embed.

    Raises:
        InputError: a model is not there, has no weights, or its tokenizer does not belong to it.
    """
    from csr_core.reward.ensemble import Ensemble

    members = [load_open_clip(name, settings.device, settings.batch_size) for name in settings.models]
    return members[0] if len(members) == 1 else Ensemble(members)


def load_open_clip(named: str, device_name: str = "auto", batch_size: int | None = None) -> OpenClip:
    """Load one model.

    `miniature` is the shipped one; a directory is read in open_clip's local-dir layout; anything else is spelled as
    open_clip spells it: `NAME:PRETRAINED` (`ViT-L-14-336:openai`; PRETRAINED may be a file) or `hf-hub:OWNER/NAME`.

    Raises:
        InputError: the model is not there, has no weights, or its tokenizer does not belong to it.
    """
    import open_clip

    name, pretrained = _spelled(named)
    device = resolve_device(device_name)
    try:
        model, transform = open_clip.create_model_from_pretrained(
            name, pretrained=pretrained, device=device, force_quick_gelu=trained_with_quick_gelu(name, pretrained)
        )
        tokenizer = open_clip.get_tokenizer(name)
    except Exception as error:  # open_clip, the hub's client, torch and safetensors each have their own
        raise InputError(
            f"cannot load the image relevance model reward.model = {named!r}: {error}\n"
            "Expected 'miniature', a directory with open_clip_config.json and open_clip_model.safetensors, "
            "'NAME:PRETRAINED' such as 'ViT-L-14-336:openai', or 'hf-hub:OWNER/NAME'. Is the name right "
            "(python -c 'import open_clip; print(open_clip.list_pretrained())'), and is the hub within reach? "
            "Without network, fetch the model once on another machine and give its directory."
        ) from error
    _check_tokenizer(named, model, tokenizer)
    return OpenClip(model.eval(), transform, tokenizer, device, batch_size)


def trained_with_quick_gelu(name: str, pretrained: str | None) -> bool:
    """Whether the weights of this tag want OpenAI's approximate GELU, whatever the architecture's own file says.

    open_clip only warns where the two differ (`ViT-L-14-336:openai` is such a case), and computes other embeddings.
    """
    from open_clip.pretrained import get_pretrained_cfg

    found = get_pretrained_cfg(name, pretrained) if pretrained else {}
    return bool(found.get("quick_gelu", False))


def _check_tokenizer(named: str, model: Any, tokenizer: Any) -> None:
    """That the tokenizer writes as many tokens as the text tower reads, and none that it has no embedding for."""
    tower = getattr(model, "text", model)
    context, size = getattr(tower, "context_length", None), getattr(tower, "vocab_size", None)
    ids = tokenizer(["A photo of a dog."])
    if context is not None and ids.shape[1] != context:
        raise InputError(
            f"reward.model = {named!r}: its text tower reads {context} tokens and its tokenizer writes {ids.shape[1]}: "
            "the tokenizer is another model's, or text_cfg.context_length is wrong"
        )
    if size is not None and int(ids.max()) >= size:
        raise InputError(
            f"reward.model = {named!r}: its tokenizer writes token {int(ids.max())} and its text tower knows {size}: "
            "the tokenizer is another model's"
        )


def _spelled(model: str) -> tuple[str, str | None]:
    """(model name, pretrained tag) as open_clip wants them."""
    if model == "miniature":
        from csr_core.miniature.weights import shipped

        return f"local-dir:{_checked_folder(Path(shipped('clip')))}", None
    if model.startswith("hf-hub:"):
        return model, None
    folder = Path(model.removeprefix("local-dir:"))
    if model.startswith("local-dir:") or folder.is_dir():
        return f"local-dir:{_checked_folder(folder)}", None
    name, colon, pretrained = model.partition(":")
    if not colon or not pretrained:
        # open_clip would take a bare name, and build the model with random weights.
        raise InputError(
            f"reward.model is {model!r}: that is no directory, and a model's name needs its weights after a colon, "
            "such as 'ViT-L-14-336:openai'. Mistyped path, or the tag forgotten?"
        )
    return name, pretrained


def _checked_folder(folder: Path) -> Path:
    """`folder`, once it is certain that open_clip will read weights and the right tokenizer from it.

    open_clip itself starts from random weights where there are none, and falls back to its own tokenizer where the
    configuration names none: both would give rewards that look like numbers and mean nothing.
    """
    file = folder / "open_clip_config.json"
    if not file.is_file():
        raise InputError(f"reward.model: {file} is missing; expected a directory in open_clip's local-dir layout")
    try:
        text = json.loads(file.read_text("utf-8"))["model_cfg"]["text_cfg"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"reward.model: {file} is not a configuration of open_clip ({error!r}); copy it again"
        ) from error
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"reward.model: {folder} holds no *.safetensors, so there are no weights to load (pickled .bin and .pt "
            "files are not read); save them as open_clip_model.safetensors"
        )
    names_one = bool(text.get("hf_tokenizer_name") or text.get("hf_model_name"))
    if not names_one and text.get("vocab_size", _SIMPLE_VOCABULARY) != _SIMPLE_VOCABULARY:
        raise InputError(
            f"reward.model: {file} has a vocabulary of {text['vocab_size']} and no text_cfg.hf_tokenizer_name, so "
            f"open_clip would use its own tokenizer of {_SIMPLE_VOCABULARY} tokens: put the tokenizer's files into "
            f"{folder} and set hf_tokenizer_name to any non-empty name"
        )
    if names_one and not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise InputError(
            f"reward.model: {file} names a tokenizer but {folder} holds no tokenizer.json: "
            "copy the tokenizer's files there"
        )
    return folder
