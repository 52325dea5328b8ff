"""The sizes that memory depends on, read off a model without weights: on torch's meta device nothing is stored."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from csr_core.config import ModelSettings, RewardSettings
from csr_core.dpo.targets import checked_targets, language_linears

# A photo as COCO has them stands for all pictures; and the words of a prompt, with a system text.
PHOTO, TEXT_TOKENS = (640, 480), 70


@dataclass(frozen=True)
class VlmShape:
    """Sizes of a VLM. `rounded`: parameters that quantisation rounds; `adapted`: (inputs, outputs) of LoRA's layers."""

    parameters: int
    rounded: int
    adapted: tuple[tuple[int, int], ...]
    layers: int
    hidden: int
    inner: int
    queries: int  # heads x size
    keys: int  # heads of keys and values x size
    vocabulary: int
    vision_hidden: int
    vision_inner: int
    picture_tokens: int  # of a photo, in the language model
    patches: int  # of a photo, in the vision tower


@dataclass(frozen=True)
class TowerShape:
    """Sizes of a reward model; width, tokens and pixels (a side) are its image tower's."""

    parameters: int
    width: int
    tokens: int
    pixels: int


@dataclass(frozen=True)
class Known:
    """A configuration and what goes with it. stored_bytes: of a weight in the hub's files."""

    config: Any
    photo: tuple[int, int]  # tokens, patches
    stored_bytes: int


def known_models() -> dict[str, dict[str, Any]]:
    """The configuration: from the model's `folder` where it is here, else what this project knows; never fetched."""
    found = [json.loads(file.read_text("utf-8")) for file in files("csr_core").joinpath("memory/configs").iterdir()]
    return {entry["hub"]: entry for entry in found}


def known(settings: ModelSettings, folder: Path | None) -> Known | None:
    """The model's configuration: from its `folder` where it is here, else what this project knows; never fetched."""
    from transformers import CONFIG_MAPPING, AutoConfig

    entry = known_models().get(settings.path)
    if folder is not None and (folder / "config.json").is_file():
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=settings.trust_remote_code)
        photo = (entry["photo"]["tokens"], entry["photo"]["patches"]) if entry else (_photo(config), _photo(config))
        return Known(config, _measured_photo(settings, folder) or photo, 2)
    if entry is None:
        return None
    tree = dict(entry["config"])
    config = CONFIG_MAPPING[tree.pop("model_type")].from_dict(tree)
    return Known(config, (entry["photo"]["tokens"], entry["photo"]["patches"]), entry["stored_bytes"])


def _photo(config: Any) -> int:
    """Patches of a square picture; how many tokens they become is the processor's to say."""
    vision = getattr(config, "vision_config", config)
    return int((getattr(vision, "image_size", None) or 448) // (getattr(vision, "patch_size", None) or 14)) ** 2


def _measured_photo(settings: ModelSettings, folder: Path) -> tuple[int, int] | None:
    """(tokens, patches) of a photo by the processor in `folder`."""
    from PIL import Image

    from csr_core.errors import CsrError
    from csr_core.policy.loading import Policy, load_processor

    try:
        policy = Policy(None, load_processor(str(folder), settings), torch.device("cpu"), 0, frozenset(), ())
        prompt = policy.encode(Image.new("RGB", PHOTO), "Describe.")
        pixels = prompt.features["pixel_values"]
        patch = getattr(getattr(policy.processor, "image_processor", None), "patch_size", None) or 14
    except (CsrError, OSError, ValueError, KeyError, AttributeError, TypeError, ImportError, RuntimeError):
        return None
    text = len(policy.tokenise(policy.render("Describe.")))
    tokens = max(1, prompt.length - text + 1)  # the text has one token in the place of all
    if pixels.ndim == 2:  # Qwen-VL: a row a patch
        return tokens, pixels.shape[0]
    sides = pixels.shape[-2] // patch * (pixels.shape[-1] // patch)
    return tokens, int(pixels[..., 0, 0, 0].numel()) * sides


def skeleton(config: Any, trust_remote_code: bool = False) -> Any:
    """The model of `config` without weights, on the meta device."""
    from transformers import AutoModelForImageTextToText

    options = {"trust_remote_code": True} if trust_remote_code else {}
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config, **options)


def vlm_shape(model: Any, photo: tuple[int, int], target_modules: str | None) -> VlmShape:
    """Sizes of `model`, with or without weights.

    Raises:
        SettingsError: `target_modules` matches nothing (`csr_core.dpo.targets`).
    """
    config = model.config
    text, vision = config.get_text_config(), getattr(config, "vision_config", config)
    adapted = re.compile(checked_targets(model, target_modules))
    linears = {name: one for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    language = re.compile(language_linears(model))
    heads = text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    width = getattr(vision, "hidden_size", None) or getattr(vision, "embed_dim", text.hidden_size)
    return VlmShape(
        parameters=sum(one.numel() for one in model.parameters()),
        rounded=sum(one.weight.numel() for name, one in linears.items() if language.fullmatch(name)),
        adapted=tuple((one.in_features, one.out_features) for name, one in linears.items() if adapted.fullmatch(name)),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        inner=text.intermediate_size,
        queries=heads * size,
        keys=(getattr(text, "num_key_value_heads", None) or heads) * size,
        vocabulary=int(model.get_output_embeddings().weight.shape[0]),
        vision_hidden=width,
        vision_inner=getattr(vision, "intermediate_size", None) or 4 * width,
        picture_tokens=photo[0],
        patches=photo[1],
    )


def unrounded(model: Any) -> list[str]:
    """Names under which the linear layers stand that quantisation leaves alone: all but the language model's.

    Rounding the vision tower too would change every picture's features, for a small part of the memory.
    """
    language = re.compile(language_linears(model))
    root = next(name for name, one in model.named_modules() if one is model.get_decoder()).split(".")

    def branch(name: str) -> str:
        """The beginning of `name` up to where it parts from the language model's."""
        parts = name.split(".")
        common = next((at for at, part in enumerate(parts) if root[at : at + 1] != [part]), len(parts))
        return ".".join(parts[: common + 1])

    linears = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)]
    return list(dict.fromkeys(branch(name) for name in linears if not language.fullmatch(name)))


def known_towers() -> dict[str, dict[str, Any]]:
    """Sizes and hub name of the presets' reward model as open_clip has them, without its import of five seconds."""
    found: dict[str, dict[str, Any]] = json.loads(files("csr_core").joinpath("memory/towers.json").read_text("utf-8"))
    return found


def tower_shape(settings: RewardSettings) -> TowerShape | None:
    """Sizes of the reward model, from open_clip's own configurations or its folder; None where it is not known.

    Of an ensemble, whose members work one after the other: all parameters, and the largest picture side.
    """
    towers = [_tower(settings.model_copy(update={"model": name})) for name in settings.models]
    known = [tower for tower in towers if tower is not None]
    if len(known) < len(towers):
        return None
    largest = max(known, key=lambda tower: tower.tokens * tower.width)
    return replace(largest, parameters=sum(tower.parameters for tower in known))


def _tower(settings: RewardSettings) -> TowerShape | None:
    """Of one model."""
    from csr_core.stages.models import reward_files

    [named] = settings.models
    entry = known_towers().get(named)
    if entry is not None:
        return TowerShape(**{name: size for name, size in entry.items() if name != "hub"})
    folders = reward_files(settings)
    if folders:
        config = json.loads((folders[0] / "open_clip_config.json").read_text("utf-8"))["model_cfg"]
        weights = next(folders[0].glob("*.safetensors"), None)
        count = weights.stat().st_size // 4 if weights else 0
    else:
        import open_clip

        name = named.partition(":")[0]
        config = open_clip.get_model_config(name)
        if config is None:
            return None
        with torch.device("meta"), _quiet():
            model = open_clip.create_model(name, pretrained=None, pretrained_image=False, device="meta")
        count = sum(one.numel() for one in model.parameters())
    vision = config["vision_cfg"]
    side = vision.get("image_size", 224)
    side = side[0] if isinstance(side, list) else side
    patch, width = vision.get("patch_size") or 16, vision.get("width") or config["embed_dim"]
    return TowerShape(count, width, (side // patch) ** 2 + 1, side)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without open_clip's warning that this model has no weights."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
