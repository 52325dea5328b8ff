"""Where the shipped weights are."""

from __future__ import annotations

from pathlib import Path

from csr_core.errors import InputError

WEIGHTS = Path(__file__).parent / "weights"
_NEEDED = {
    "llava": ("config.json", "model.safetensors", "tokenizer.json", "processor_config.json"),
    "clip": ("open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json"),
}


def shipped(name: str) -> Path:
    """The directory of the shipped `llava` (transformers' layout) or `clip` (open_clip's `local-dir:` layout)."""
    if name not in _NEEDED:
        raise ValueError(f"unknown model {name!r}: use one of {', '.join(_NEEDED)}")
    directory = WEIGHTS / name
    lacking = [file for file in _NEEDED[name] if not (directory / file).is_file()]
    if lacking:
        raise InputError(
            f"the shipped {name} model in {directory} lacks {', '.join(lacking)}. "
            "Reinstall the package, or make the models again with `csr miniature build`."
        )
    return directory
