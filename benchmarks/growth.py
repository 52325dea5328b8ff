"""How time and memory grow with prompts, width and depth; and what share of a run each stage has."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import midsize

# Small trees, so that the most prompts take a minute: name -> (prompts, width, sentences).
SIZES = {
    "prompts x1": (4, 3, 2),
    "prompts x4": (16, 3, 2),
    "prompts x16": (64, 3, 2),
    "width x1": (8, 2, 2),
    "width x2": (8, 4, 2),
    "width x4": (8, 8, 2),
    "depth x1": (8, 3, 1),
    "depth x2": (8, 3, 2),
    "depth x4": (8, 3, 4),
}


def grow(name: str) -> dict[str, Any]:
    """Seconds to grow trees of this size with the mid-size model; 196 picture tokens, four prompts side by side."""
    from csr_core.config import GenerateSettings
    from csr_core.search.tree import Grower, Tree

    prompts, width, sentences = SIZES[name]
    policy = midsize.llava(224)
    settings = GenerateSettings(keep_by="likelihood", batch_size=4, width=width, max_sentences=sentences)
    trees = [Tree(f"p{n}", prompt) for n, prompt in enumerate(midsize.prompts(policy, prompts, 224))]
    started = time.monotonic()
    Grower(policy, settings).grow(trees)
    seconds = time.monotonic() - started
    return {
        "size": name,
        "prompts": prompts,
        "width": width,
        "sentences": sentences,
        "seconds": round(seconds, 2),
        "tokens": sum(len(node.ids) for tree in trees for node in tree.nodes),
    }


def shares() -> dict[str, float]:
    """Seconds of each stage of one iteration of the demo, by the bare functions."""
    from csr_core.layout import Layout
    from csr_core.loop import iterate
    from csr_core.params import load_settings

    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as folder:
        iterate(load_settings(root / "params.yaml", ["iterations=1"]), Layout(Path(folder)))
        stamps = (Path(folder) / ".csr" / "stamps").glob("*@1.json")
        return {path.stem: round(json.loads(path.read_text())["seconds"], 1) for path in sorted(stamps)}
