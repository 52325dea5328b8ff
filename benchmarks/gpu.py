"""A LLaVA-1.5-7B shape (random weights, bfloat16) on one GPU: everything in one call of at most ten minutes.

    python -m benchmarks.gpu             # needs about 40 GB of GPU memory
    python -m benchmarks.gpu --small     # the mid-size shape in float32 on the CPU, to try the script

Prints and writes benchmarks/gpu.json: trees a second against one node at a time, a decode step against what the
measured memory bandwidth allows, fine-tuning against the measured matrix rate, and peak memory of each.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import midsize
from benchmarks.plain import grow_plainly
from csr_core.config import FinetuneSettings, GenerateSettings
from csr_core.policy import Policy
from csr_core.records import write_json
from csr_core.search.batches import token_bytes
from csr_core.search.prefixes import Prefixes
from csr_core.search.tree import Grower, Tree

OUT = Path(__file__).parent / "gpu.json"


@dataclass(frozen=True)
class Plan:
    """How much is measured, and on what."""

    shape: midsize.Shape
    pixels: int
    device: str
    dtype: torch.dtype
    prompts: int
    plain_prompts: int
    sentences: int
    rows: int  # of the timed decode step
    pairs: int
    matrix: int


FULL = Plan(midsize.SEVEN_B, 336, "cuda", torch.bfloat16, 64, 1, 8, 256, 16, 8192)
SMALL = Plan(midsize.MID, 224, "cpu", torch.float32, 2, 1, 1, 16, 2, 1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    plan = SMALL if parser.parse_args().small else FULL
    if plan.device == "cuda" and not torch.cuda.is_available():
        print("no GPU is visible: --small tries the script on the CPU")
        return 2
    name = torch.cuda.get_device_name() if plan.device == "cuda" else "CPU"
    found: dict[str, Any] = {"device": name, "torch": torch.__version__}
    policy = midsize.llava(plan.pixels, shape=plan.shape, device=plan.device, dtype=plan.dtype)
    for part in (_rates, _generate, _step, _finetune):
        before = _reset_peak(plan)
        started = time.monotonic()
        found |= part(plan, policy, found)
        found[f"{part.__name__[1:]}_peak_gib"] = _peak(plan, before)
        found[f"{part.__name__[1:]}_took_s"] = round(time.monotonic() - started, 1)
        write_json(OUT, found)
        print({key: value for key, value in found.items() if key.startswith(part.__name__[1:])}, flush=True)
    return 0


def _rates(plan: Plan, policy: Policy, found: dict[str, Any]) -> dict[str, Any]:
    """Operations a second of a large matrix product, and bytes a second of reading and writing a large table."""
    left = torch.randn(plan.matrix, plan.matrix, device=plan.device, dtype=plan.dtype)
    table = torch.empty(2**28 if plan.device == "cuda" else 2**24, device=plan.device, dtype=torch.float32)
    product = _seconds(lambda: left @ left, plan, 10)
    copy = _seconds(lambda: table.add_(1), plan, 10)
    return {
        "rates_tflops": round(2 * plan.matrix**3 / product / 1e12, 2),
        "rates_gbytes": round(2 * table.numel() * 4 / copy / 1e9, 1),
    }


def _generate(plan: Plan, policy: Policy, found: dict[str, Any]) -> dict[str, Any]:
    settings = GenerateSettings(keep_by="likelihood", max_sentences=plan.sentences)
    prompts = midsize.prompts(policy, plan.prompts, plan.pixels)
    trees = [Tree(f"p{n}", prompt) for n, prompt in enumerate(prompts)]
    grower = Grower(policy, settings)
    ours = _once(lambda: grower.grow(trees), plan)
    plain = [Tree(f"p{n}", prompt) for n, prompt in enumerate(prompts[: plan.plain_prompts])]
    theirs = _once(lambda: grow_plainly(policy, settings, plain), plan)
    # By the token, since the trees of one prompt may be larger or smaller than the mean.
    tokens = [sum(len(node.ids) for tree in grown for node in tree.nodes) for grown in (trees, plain)]
    return {
        "generate_prompts_a_second": round(plan.prompts / ours, 4),
        "generate_tokens_a_second": round(tokens[0] / ours, 1),
        "generate_plain_tokens_a_second": round(tokens[1] / theirs, 1),
        "generate_ratio": round(tokens[0] / ours / (tokens[1] / theirs), 1),
        "generate_batch_size": grower.expander.batch_size,
    }


def _step(plan: Plan, policy: Policy, found: dict[str, Any]) -> dict[str, Any]:
    """One decode step of many rows, five to a prompt; the floor is reading all weights and all keys and values once."""
    prefixes = Prefixes(policy)
    states = prefixes.get(midsize.prompts(policy, max(1, plan.rows // 5), plan.pixels))
    rows = (states * 5)[: plan.rows]
    decoder = prefixes.decoder(len(rows), 80)
    decoder.admit(rows)
    parents, tokens = list(range(len(rows))), torch.full((len(rows),), 100)
    seconds = _seconds(lambda: decoder.advance(parents, tokens), plan, 16)
    weights = [*policy.model.get_decoder().layers.parameters(), *policy.model.get_output_embeddings().parameters()]
    read = sum(weight.numel() * weight.element_size() for weight in weights)
    read += sum(state.prefix.length for state in states) * token_bytes(states[0]) + 8 * len(rows) * token_bytes(
        states[0]
    )
    floor = read / (found["rates_gbytes"] * 1e9)
    operations = 2 * len(rows) * sum(weight.numel() for weight in weights) / (found["rates_tflops"] * 1e12)
    return {
        "step_ms": round(1e3 * seconds, 2),
        "step_floor_ms": round(1e3 * max(floor, operations), 2),
        "step_times_floor": round(seconds / max(floor, operations), 2),
        "step_rows": len(rows),
    }


def _finetune(plan: Plan, policy: Policy, found: dict[str, Any]) -> dict[str, Any]:
    """Operations counted once, a pair's prompt once: forward for policy and reference, backward to the activations."""
    from csr_core.dpo.pairs import Pairs
    from csr_core.dpo.train import train

    settings = FinetuneSettings(lora_rank=16, lora_alpha=32, learning_rate=1e-4, batch_size=2, warmup_share=0.0)
    with tempfile.TemporaryDirectory() as folder:
        rows = midsize.pairs(policy, plan.pairs, plan.pixels, Path(folder) / "images")
        prompt = midsize.prompts(policy, 1, plan.pixels)[0].length
        layers = sum(weight.numel() for weight in policy.model.get_decoder().layers.parameters())
        head = policy.model.get_output_embeddings().weight.numel()
        seconds = _once(lambda: train(policy, Pairs(rows, []), settings, 0, 10**6, Path(folder) / "work"), plan)
    answers = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows)
    operations = 3 * 2 * (layers * (answers + prompt * len(rows)) + head * answers)
    return {
        "finetune_pairs_a_second": round(len(rows) / seconds, 3),
        "finetune_share_of_matrix_rate": round(operations / seconds / (found["rates_tflops"] * 1e12), 3),
    }


def _once(work: Callable[[], Any], plan: Plan) -> float:
    _wait(plan)
    started = time.monotonic()
    work()
    _wait(plan)
    return time.monotonic() - started


def _seconds(work: Callable[[], Any], plan: Plan, times: int) -> float:
    """Of one time, the first two left out."""
    for _ in range(2):
        work()
    return _once(lambda: [work() for _ in range(times)], plan) / times


def _wait(plan: Plan) -> None:
    if plan.device == "cuda":
        torch.cuda.synchronize()


def _reset_peak(plan: Plan) -> int:
    if plan.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _peak(plan: Plan, before: int) -> float:
    """GiB; on a CPU the peak of the process so far."""
    if plan.device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**30, 1)
    import resource

    return round(max(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 2**20, 1)


if __name__ == "__main__":
    raise SystemExit(main())
