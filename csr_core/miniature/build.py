"""Makes both tiny models from nothing, measures them and writes them with their model cards."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from csr_core.errors import CsrError, SettingsError
from csr_core.miniature import cards, clip, gates, llava, world

VALIDATION_SCENES = 300
VALIDATION_SEED = 0  # the same scenes for every base model


class GateMissedError(CsrError):
    """A model that was built is not what the miniature needs."""


def build(out: Path, seed: int = 0, scale: float = 1.0, progress: Callable[[str], object] = print) -> dict[str, float]:
    """Builds the tiny CLIP and the tiny LLaVA into `out/clip` and `out/llava`.

    Args:
        out: directory to write to; made if need be, files of the same names are replaced.
        seed: decides weights and training scenes; a seed is one base model.
        scale: below 1, shortens training and measuring in proportion (for tests; the gates are then not required).
        progress: is given a line now and then: steps done, rate, time left.

    Returns:
        What was measured on validation scenes, by name; fractions of 1.

    Raises:
        GateMissedError: at scale 1, when a model does not pass `gates.GATES`; the files stay, to be looked at.
    """
    import torch

    if not 0 < scale <= 1:
        raise SettingsError(f"--scale {scale}: expected a share of the training, above 0 and at most 1")
    begun = time.monotonic()
    with torch.random.fork_rng(devices=[]):
        contrastive, config = clip.train(seed, max(2, round(clip.STEPS * scale)), progress)
        clip.save(contrastive, config, out / "clip")
        model = llava.train(seed, max(2, round(llava.STEPS * scale)), contrastive, progress)
        llava.save(model, out / "llava")
    measured = measure(out, max(10, round(VALIDATION_SCENES * scale)))
    minutes = (time.monotonic() - begun) / 60
    for name, value in measured.items():
        progress(f"{name}: {value:.3f}")
    cards.write(out, seed, scale, measured)
    progress(f"built {out} in {minutes:.1f} minutes")
    lines = gates.missed(measured)
    if lines and scale == 1:
        raise GateMissedError(f"the models built with seed {seed} miss: {'; '.join(lines)}. Try another seed.")
    return measured


def measure(
    models: Path, count: int = VALIDATION_SCENES, split: str = "validation", seed: int = VALIDATION_SEED
) -> dict[str, float]:
    """Measures `models/llava` and `models/clip` on `count` scenes, loading them as any other model."""
    scenes = list(world.sample_split(split, count, seed))
    return gates.measure_llava(models / "llava", scenes) | gates.measure_clip(models / "clip", scenes)
