"""Load a VLM of any family through the Auto classes, with the adapter of an iteration on top where there is one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from csr_core.config import ModelSettings
from csr_core.errors import InputError
from csr_core.policy.families import (
    Family,
    check_config,
    check_processor,
    family_of,
    picture_token,
    placeholder_ids,
    rendered,
)
from csr_core.policy.prompt import TEMPLATES, PromptInputs, split_inputs
from csr_core.policy.quantization import loading_options, refuse_unusable
from csr_core.policy.sources import told
from csr_core.progress import doing

if TYPE_CHECKING:
    from PIL.Image import Image


# Parameters. A smaller model gains nothing from a second CPU thread (workers do help), loses much to it on a busy
# machine, and on one thread its numbers do not depend on the batch; how a library shares work out among threads does.
SMALL_MODEL = 100_000_000


@dataclass
class Policy:
    """A loaded VLM with what decoding must know of it."""

    model: Any  # a transformers PreTrainedModel, or a PeftModel around one
    processor: Any
    device: torch.device
    pad_id: int
    end_ids: frozenset[int]  # tokens that end the assistant's turn
    suppressed_ids: tuple[int, ...]  # never generated: picture placeholders, padding, ...
    family: Family = field(default_factory=Family)

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    @property
    def picture_token(self) -> str | None:
        """What stands for a picture in a rendered prompt."""
        return picture_token(self.processor)

    def render(self, prompt: str, pictures: int = 1) -> str:
        """The chat template's text for some pictures and `prompt`, up to where the assistant begins to write."""
        return rendered(self.processor, prompt, pictures)

    def encode(self, images: Image | Sequence[Image], prompt: str) -> PromptInputs:
        """Pictures and a prompt as model inputs on the CPU, picture tokens expanded.

        Raises:
            InputError: several pictures, and the model's family takes one.
        """
        count = len(images) if isinstance(images, Sequence) else 1
        if count > 1 and self.family.places_pictures:
            kind = type(self.processor).__name__
            raise InputError(
                f"{count} pictures in one prompt, but {kind} takes one: choose a family that takes several"
            )
        return self.encode_text(images, self.render(prompt, count))

    def encode_text(self, images: Image | Sequence[Image], text: str, answer: str | None = None) -> PromptInputs:
        """Pictures and a rendered prompt, with an answer behind it where given, as `encode`."""
        whole: dict[str, Any] = {"text": [text]}
        if answer is not None:
            whole = {"text": [text + answer]}
            if self.family.answer_argument:
                whole = {"text": [text], self.family.answer_argument: [answer]}
        special = self._adds_special(text)
        shown = list(images) if isinstance(images, Sequence) else [images]
        # A list for the sample, so that no family takes several pictures for those of several samples.
        given = [shown] if len(shown) > 1 else shown
        batch = self.processor(images=given, **whole, return_tensors="pt", add_special_tokens=special)
        return split_inputs({name: value for name, value in batch.items() if name not in self.family.not_inputs})

    def tokenise(self, text: str) -> list[int]:
        """Token ids of a rendered text as `encode_text` makes them, but for the picture's token, which stays single."""
        return list(self.tokenizer(text, add_special_tokens=self._adds_special(text))["input_ids"])

    def _adds_special(self, text: str) -> bool:
        # A template that writes the beginning-of-sequence token itself must not get a second one.
        bos = self.tokenizer.bos_token
        return not (bos and text.startswith(bos))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated ids, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def resolve_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one, otherwise the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU, where bfloat16 is emulated and slow."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def model_path(settings: ModelSettings) -> str:
    """Where the base checkpoint lies: the shipped miniature, a directory, or a hub name."""
    if settings.path == "miniature":
        from csr_core.miniature.weights import shipped

        return str(shipped("llava"))
    return settings.path


def load_processor(path: str, settings: ModelSettings) -> Any:
    """The processor with the prompt template of the settings; a model that cannot be worked with is refused here.

    Raises:
        InputError: see `families.check_config` and `families.check_processor`; or the template cannot be found.
    """
    from transformers import AutoConfig, AutoProcessor

    revision = _revision(path, settings)
    config = AutoConfig.from_pretrained(path, trust_remote_code=settings.trust_remote_code, **revision)
    check_config(config, path)
    options: dict[str, Any] = {"backend": "pil"} if settings.image_backend == "pil" else {}
    options |= revision
    processor = AutoProcessor.from_pretrained(path, trust_remote_code=settings.trust_remote_code, **options)
    template = settings.prompt_template
    if template is None and not getattr(processor, "chat_template", None):
        template = family_of(config).template
    if template is not None:
        if template not in TEMPLATES and not Path(template).is_file():
            raise InputError(
                f"model.prompt_template is {template!r}: expected one of {sorted(TEMPLATES)}, or a Jinja file's path"
            )
        processor.chat_template = TEMPLATES.get(template) or Path(template).read_text("utf-8")
    if not getattr(processor, "chat_template", None):
        raise InputError(
            f"the processor of {path} has no chat template, so how it expects a prompt is unknown: "
            f"set model.prompt_template to one of {sorted(TEMPLATES)} or to a Jinja file"
        )
    check_processor(processor, family_of(config), path)
    processor.tokenizer.padding_side = "left"
    return processor


@doing("loading the model")
def load_policy(settings: ModelSettings, adapter: Path | None = None, trainable: bool = False) -> Policy:
    """Load the base checkpoint and, where given, what an iteration made of it.

    `adapter` is `models/iter_K`: a PEFT adapter to put on the base, or a whole merged model to take in its place.
    Weights are read from safetensors only.

    Raises:
        InputError: the checkpoint or the adapter cannot be loaded; the message names the file and the likely cause.
        SettingsError: `model.quantization` cannot be had on this machine.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, device)
    refuse_unusable(settings, device)
    base = model_path(settings)
    merged = adapter is not None and not (adapter / "adapter_config.json").is_file()
    source = str(adapter) if merged else base
    _check_files(base, adapter, merged)
    logging.disable_progress_bar()  # a bar for each loaded model would drown the stages' own progress
    try:
        processor = load_processor(base, settings)  # first: it is small, and tells whether the model can be used
        model: Any
        model, found = AutoModelForImageTextToText.from_pretrained(
            source,
            dtype=dtype,
            trust_remote_code=settings.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **_revision(source, settings),
            **loading_options(settings, source, dtype, device),
        )
        if adapter is not None and not merged:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        if source == base and (reason := told(base, settings.revision, error)):
            raise InputError(f"cannot load the model {base}: {reason}") from error
        raise InputError(
            f"cannot load the model {source}{f' with adapter {adapter}' if adapter and not merged else ''}: {error}. "
            "Expected a complete Hugging Face image-text-to-text checkpoint (config.json, weights as safetensors, "
            "tokenizer and processor files); is a file missing or cut short, or the path wrong?"
        ) from error
    _refuse_random(found["missing_keys"], source)
    if settings.quantization is None:  # bitsandbytes has put the model in its place already
        model.to(device)
    model.train(trainable)
    if device.type == "cpu" and model.num_parameters() < SMALL_MODEL:
        torch.set_num_threads(1)
    return Policy(model, processor, device, *_token_ids(model, processor), family=family_of(model.config))


def _refuse_random(missing: Iterable[str], source: str) -> None:
    """What a checkpoint's files do not hold, transformers fills with random numbers, and only warns."""
    if names := sorted(missing):
        raise InputError(
            f"the weights of {source} lack {len(names)} that the model has: {', '.join(names[:3])}"
            f"{', ...' if len(names) > 3 else ''}. They would be random. Is a file incomplete, or config.json of "
            "another model, or are these weights without the head that writes? Check model.path"
        )


def _revision(source: str, settings: ModelSettings) -> dict[str, str]:
    """The revision of a hub's model; a folder has none."""
    return {"revision": settings.revision} if settings.revision and not Path(source).is_dir() else {}


def _check_files(base: str, adapter: Path | None, merged: bool) -> None:
    """Name what is missing in the folders of a local model; a hub name cannot be looked into."""
    missing: list[str] = []
    if Path(base).is_dir():
        missing += missing_files(Path(base), weights=not merged)
    if adapter is not None and not adapter.is_dir():
        missing.append(f"{adapter} (the folder itself: was the previous iteration finished?)")
    elif adapter is not None and merged:
        missing += missing_files(adapter, processor=False)
    elif adapter is not None and not (adapter / "adapter_model.safetensors").is_file():
        missing.append(str(adapter / "adapter_model.safetensors"))
    if missing:
        raise InputError(
            f"cannot load the model {base if adapter is None else adapter}, missing: {'; '.join(missing)}. Expected a "
            "complete Hugging Face image-text-to-text checkpoint: was a download or copy interrupted, or is "
            "model.path another folder?"
        )


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")


def missing_files(folder: Path, weights: bool = True, processor: bool = True) -> list[str]:
    """Paths that a checkpoint in `folder` needs and lacks: config, weights (each shard), tokenizer, processor."""
    wanted: list[tuple[str, ...]] = [("config.json",)]
    index = folder / "model.safetensors.index.json"
    if weights and index.is_file():
        try:
            wanted += [(shard,) for shard in sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))]
        except (ValueError, KeyError, AttributeError) as error:
            return [f"{index} (cannot be read: {error})"]
    elif weights:
        wanted.append(("model.safetensors", index.name))
    if processor:
        wanted += [_TOKENIZER_FILES, _PROCESSOR_FILES]
    return [
        f"{folder / names[0]}" + (f" (or {' or '.join(names[1:])})" if names[1:] else "")
        for names in wanted
        if not any((folder / name).is_file() for name in names)
    ]


def _token_ids(model: Any, processor: Any) -> tuple[int, frozenset[int], tuple[int, ...]]:
    """(padding id, ids that end a turn, ids never generated) from the checkpoint's own configuration."""
    tokenizer, generation = processor.tokenizer, model.generation_config
    ends = generation.eos_token_id if generation.eos_token_id is not None else tokenizer.eos_token_id
    end_ids = frozenset(ends if isinstance(ends, list) else [ends])
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(end_ids)
    # Placeholders of pictures are inputs only: a model that writes one would be asked for a picture that is not there.
    never = {*placeholder_ids(model.config, processor), pad, *(generation.suppress_tokens or [])}
    return int(pad), end_ids, tuple(sorted(token for token in never if token not in end_ids))
