"""What the shards of a stage hold, and their making: picklable, for other processes; a stage is imported only there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from csr_core.config import Settings


def sizes_generate(settings: Settings, prompts: Path) -> list[int]:
    from csr_core.stages.generate import shard_sizes

    return shard_sizes(settings, prompts)


def make_generate(
    settings: Settings, k: int, prompts: Path, start: Path | None, state: Path, out: Path, numbers: Sequence[int]
) -> None:
    from csr_core.stages.generate import make_shards

    make_shards(settings, k, prompts, start, out, numbers, state)


def sizes_score(candidates: Path) -> list[int]:
    from csr_core.stages.parts import part_sizes

    return part_sizes(candidates)  # theirs are scored part by part


def make_score(
    settings: Settings, prompts: Path, candidates: Path, state: Path, out: Path, numbers: Sequence[int]
) -> None:
    from csr_core.stages.score import make_shards

    make_shards(settings, prompts, candidates, out, numbers, state=state)


def sizes_evaluate(settings: Settings, splits: dict[str, Path]) -> list[int]:
    from csr_core.stages.evaluate import shard_sizes

    return shard_sizes(settings, splits)


def make_evaluate(
    settings: Settings, splits: dict[str, Path], model: Path | None, out: Path, numbers: Sequence[int]
) -> None:
    from csr_core.stages.evaluate import make_shards

    make_shards(settings, splits, model, out, numbers)
