"""A tiny world with a tiny VLM and a tiny CLIP: what the demo and every test run on.

Light to import. `csr_core.miniature.build.build` makes both models; it loads torch, transformers and open_clip when
called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csr_core.miniature.weights import shipped

__all__ = ["shipped", "write_split"]


def write_split(
    out: Path, split: str, count: int, seed: int, iteration: int = 0, questions_per_image: int = 6
) -> dict[str, Any]:
    """Writes a split as a dataset folder; see `csr_core.miniature.dataset.write_split`."""
    from csr_core.miniature.dataset import write_split as write

    return write(out, split, count, seed, iteration, questions_per_image)
