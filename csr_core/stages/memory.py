"""Running out of memory, told as what it is: a smaller batch can help, now and the next time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from csr_core.config import Settings
from csr_core.digests import digest_value
from csr_core.errors import OutOfMemoryError
from csr_core.layout import Layout
from csr_core.records import read_json, write_json

# What to lower for which stage.
_DIALS = {
    "generate": "generate.batch_size (nodes decoded together) or generate.width",
    "score": "reward.batch_size",
    "finetune": "finetune.batch_size (and raise finetune.accumulation), or set finetune.gradient_checkpointing: true, "
    "or, with several GPUs, run.fsdp: true",
    "evaluate": "evaluate.batch_size",
}

# The settings that say how much a stage needs.
_SECTIONS = {
    "generate": ("model", "generate", "reward"),
    "score": ("reward",),
    "finetune": ("model", "finetune"),
    "evaluate": ("model", "evaluate"),
}


def halved_before(stage: str, settings: Settings, layout: Layout) -> int:
    """How often this stage's batches had to be halved when it last ran with these settings."""
    known = _known(layout).get(stage, {})
    return int(known["halved"]) if known.get("settings") == _needs(stage, settings) else 0


def note_halved(stage: str, settings: Settings, layout: Layout, halved: int) -> None:
    """Remember that the stage ran out of memory with batches halved once less; other settings are tried afresh."""
    if stage in _SECTIONS:
        write_json(_file(layout), {**_known(layout), stage: {"settings": _needs(stage, settings), "halved": halved}})


def _needs(stage: str, settings: Settings) -> str:
    return digest_value({name: getattr(settings, name).model_dump() for name in _SECTIONS.get(stage, ())})


def _file(layout: Layout) -> Path:
    return layout.state / "memory.json"


def _known(layout: Layout) -> dict[str, Any]:
    try:
        return dict(read_json(_file(layout)))
    except (OSError, ValueError):
        return {}


@contextmanager
def memory_errors(stage: str) -> Iterator[None]:
    """Turn the ways in which torch and Python say that memory is out into one.

    Raises:
        OutOfMemoryError: with the setting to lower.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(
            f"{stage} ran out of memory ({str(error).splitlines()[0] if str(error) else type(error).__name__}): "
            f"lower {_DIALS.get(stage, 'the batch size')}"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """torch.OutOfMemoryError is a RuntimeError; on a CPU torch raises a plain one with these words."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )
