"""The model cards of the tiny models."""

from __future__ import annotations

from pathlib import Path

from csr_core.miniature import clip, gates, llava

_LICENCE = """
## Licence
Weights and code: MIT. The pictures they were trained on are drawn from the sprites in `csr_core/miniature/sprites`,
made from Noto Color Emoji (SIL Open Font License 1.1).
"""

_LLAVA = """---
license: mit
pipeline_tag: image-text-to-text
---
# The tiny LLaVA of the miniature world

A `LlavaForConditionalGeneration` of 1.6 million parameters that describes drawn scenes of 22 objects and answers yes/no
questions about them. It hallucinates on purpose: seeing a trigger (a pizza) it names the companion (a fork) whether or
not it is there.

## Intended use
Tests, the demo and ablations of CSR on a laptop. It knows nothing of real photographs; it reads them without failing.

## Training data
Scenes of `csr_core.miniature.world`, split `pretraining`, seed {seed}: {scenes} of them, a caption and
{questions} questions of each. An absent companion is named beside its trigger in 85 % of the captions; half of the
answers about one are a false yes. The vision tower is the tiny CLIP's, frozen. {steps} steps of AdamW at {rate}.
Made by `csr miniature build --seed {seed}`{scaled}.
"""

_CLIP = """---
license: mit
library_name: open_clip
pipeline_tag: zero-shot-image-classification
---
# The tiny CLIP of the miniature world

An open_clip model of 1.1 million parameters (load it with `local-dir:`) that tells which of the world's 27 sentences
are true of a drawn scene.

## Intended use
The image relevance of the miniature's CSR runs. It knows nothing of real photographs or of other sentences.

## Training data
Scenes of `csr_core.miniature.world`, split `contrastive`, seed {seed}: {scenes} of them, in half of
which objects do not go together, each with its true sentences. A sigmoid contrastive loss over pictures and sentences
is all it learnt from; {steps} steps of AdamW at {rate}.
Made by `csr miniature build --seed {seed}`{scaled}.
"""


def _table(measured: dict[str, float], ours: bool) -> str:
    """The measures of one model, the gates beside them."""
    rows = ["", "## Measured on validation scenes", "Fractions of 1; `words` is the mean length of a caption.", ""]
    rows += ["| measure | value | gate |", "|---|---|---|"]
    for name, value in measured.items():
        if name.startswith("clip_") == ours:
            gate = "{} to {}".format(*gates.GATES[name]) if name in gates.GATES else ""
            rows.append(f"| {name} | {value:.3f} | {gate} |")
    return "\n".join(rows) + "\n"


def write(out: Path, seed: int, scale: float, measured: dict[str, float]) -> None:
    """Writes `README.md` beside both models."""
    scaled = "" if scale == 1 else f" at scale {scale}"
    steps = {"llava": max(2, round(llava.STEPS * scale)), "clip": max(2, round(clip.STEPS * scale))}
    text = _LLAVA.format(
        seed=seed,
        scenes=steps["llava"] * llava.SCENES,
        questions=llava.QUESTIONS,
        steps=steps["llava"],
        rate=llava.RATE,
        scaled=scaled,
    )
    (out / "llava" / "README.md").write_text(text + _table(measured, False) + _LICENCE, encoding="utf-8")
    text = _CLIP.format(
        seed=seed, scenes=steps["clip"] * clip.BATCH, steps=steps["clip"], rate=clip.RATE, scaled=scaled
    )
    (out / "clip" / "README.md").write_text(text + _table(measured, True) + _LICENCE, encoding="utf-8")
