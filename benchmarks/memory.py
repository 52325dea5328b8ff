"""The estimate of memory against what is measured, on models with random weights: `python -m benchmarks.memory`.

On a CPU a mid-size LLaVA, by what torch's allocator hands out; with `--seven-b` on a GPU the shape of LLaVA-1.5-7B in
bfloat16, by torch.cuda.max_memory_allocated.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import midsize
from benchmarks.allocated import peak_allocated
from csr_core.config import FinetuneSettings, GenerateSettings, ModelSettings, Settings
from csr_core.dpo.pairs import Pairs
from csr_core.dpo.train import train
from csr_core.memory.shapes import vlm_shape
from csr_core.memory.stages import Load, Need, Planned, finetune_need, generate_need
from csr_core.policy import Policy
from csr_core.search.tree import Grower, Tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seven-b", action="store_true")
    large = parser.parse_args().seven_b
    torch.set_num_threads(1)
    kind: dict[str, Any] = {"shape": midsize.SEVEN_B, "pixels": 336, "device": "cuda", "dtype": torch.bfloat16}
    kind = kind if large else {"pixels": 224}
    for pairs, checkpointing in ((1, False), (1, True), (2, False), (2, True)):
        _finetune(kind, pairs, checkpointing, 128 if large else 16)
    for sentences in (2, 4):
        _generate(kind, 8, sentences)


def _finetune(kind: dict[str, Any], pairs: int, checkpointing: bool, rank: int) -> None:
    policy, pixels = midsize.llava(**kind), kind["pixels"]
    settings = FinetuneSettings(
        lora_rank=rank, learning_rate=1e-6, batch_size=pairs, warmup_share=0.0, gradient_checkpointing=checkpointing
    )
    with tempfile.TemporaryDirectory() as folder:
        rows = midsize.pairs(policy, 2 * pairs, pixels, Path(folder) / "images")
        longest = [max(len(row[side]) for row in rows) for side in ("chosen_ids", "rejected_ids")]
        load = Load(midsize.prompts(policy, 1, pixels)[0].length, answer=sum(longest) // 2)
        estimate = finetune_need(_plan(policy, kind, load, finetune=settings))
        work = Path(folder) / "work"
        peak = _peak(policy, lambda: train(policy, Pairs(rows, []), settings, 0, 10**6, work))
    _tell(f"finetune, {pairs} pairs{', checkpointing' if checkpointing else ''}", peak, estimate)


def _generate(kind: dict[str, Any], batch: int, sentences: int) -> None:
    policy = midsize.llava(**kind)
    prompts = midsize.prompts(policy, batch, kind["pixels"])
    settings = GenerateSettings(keep_by="likelihood", max_sentences=sentences, batch_size=batch)
    trees = [Tree(f"p{number}", prompt) for number, prompt in enumerate(prompts)]
    peak = _peak(policy, lambda: Grower(policy, settings).grow(trees))
    lengths = [len(node.ids) for tree in trees for node in tree.nodes[1:]]
    load = Load(prompts[0].length, round(sum(lengths) / len(lengths)), pictures=batch)
    _tell(
        f"generate, {batch} nodes, {sentences} sentences",
        peak,
        generate_need(_plan(policy, kind, load, generate=settings), batch),
    )


def _plan(policy: Policy, kind: dict[str, Any], load: Load, **sections: Any) -> Planned:
    patches = (kind["pixels"] // kind.get("shape", midsize.MID).patch) ** 2
    model = ModelSettings(dtype="bfloat16" if "dtype" in kind else "float32")
    shape = vlm_shape(policy.model, (patches, patches + 1), None)
    settings = Settings(iterations=1, model=model, **sections)
    return Planned(settings, shape, None, kind.get("device", "cpu"), load)


def _peak(policy: Policy, work: Callable[[], object]) -> int:
    """Bytes, the weights counted in."""
    if policy.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated()
    weights = sum(value.numel() * value.element_size() for value in policy.model.parameters())
    return weights + peak_allocated(work)


def _tell(what: str, peak: int, estimate: Need) -> None:
    print(
        f"{what}: measured {peak / 1e6:.0f} MB, estimated {estimate.total / 1e6:.0f}, {estimate.total / peak - 1:+.1%}",
        flush=True,
    )


if __name__ == "__main__":
    main()
