"""Running out of memory, told as what it is: a retry with a smaller batch can help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from csr_core.errors import OutOfMemoryError

# What to lower for which stage.
_DIALS = {
    "generate": "generate.batch_size (nodes decoded together) or generate.width",
    "score": "reward.batch_size",
    "finetune": "finetune.batch_size (and raise finetune.accumulation), or set finetune.gradient_checkpointing: true",
    "evaluate": "evaluate.batch_size",
}


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
