"""How fast the parts are: each row a ratio against the plain way, on the same model, inputs and machine.

    make bench            # all rows
    python -m benchmarks.speed --rows generate-mid-196 score-mid
    python -m benchmarks.speed --growth

Prints one table and writes benchmarks/latest.json: `rows` of name, ratio, ours, theirs, unit, floor. Each side runs in
a process of its own, so that its peak memory is its own; what the sides make must be equal. `floor` is what this
machine's measured matrix rate would allow for our count of operations; ours as a share of it says how much is left.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks import growth, midsize
from csr_core.records import write_json

OUT = Path(__file__).parent / "latest.json"
PROMPTS, PLAIN_PROMPTS, BATCH = 16, 2, 16  # ours grow together; the plain way takes its time for each
Side = dict[str, Any]


def generate(pixels: int, plain: bool) -> Side:
    """Trees of random answers of about 6 sentences of 20 words: prompts a second."""
    from benchmarks.plain import grow_plainly
    from csr_core.config import GenerateSettings
    from csr_core.search.tree import Grower, Tree

    policy = midsize.llava(pixels)
    settings = GenerateSettings(keep_by="likelihood", batch_size=BATCH)
    count = PLAIN_PROMPTS if plain else PROMPTS
    trees = [Tree(f"p{n}", prompt) for n, prompt in enumerate(midsize.prompts(policy, count, pixels))]
    started = time.monotonic()
    if plain:
        grow_plainly(policy, settings, trees)
    else:
        Grower(policy, settings).grow(trees)
    seconds = time.monotonic() - started
    tokens = sum(len(node.ids) for tree in trees for node in tree.nodes)
    again = sum(len(node.written) for tree in trees for node in tree.nodes if node.expanded)
    prompt = trees[0].prompt.length
    return {
        "rate": count / seconds,
        "made": [[list(node.ids) for node in tree.nodes] for tree in trees[:PLAIN_PROMPTS]],
        "operations": 2 * (_language(policy) * (tokens + again + count * prompt) + _vision(policy) * count) / count,
        "note": f"{tokens / count:.0f} tokens and {sum(len(t.nodes) for t in trees) / count:.0f} nodes a prompt",
    }


def _language(policy: Any) -> int:
    """Weights that each token is multiplied with."""
    return _layers(policy) + int(policy.model.get_output_embeddings().weight.numel())


def _layers(policy: Any) -> int:
    return sum(p.numel() for p in policy.model.get_decoder().layers.parameters() if p.dim() > 1)


def _vision(policy: Any) -> int:
    tower = (
        policy.model.get_base_model().model.vision_tower
        if hasattr(policy.model, "get_base_model")
        else policy.model.model.vision_tower
    )
    patches = (tower.config.image_size // tower.config.patch_size) ** 2 + 1
    return int(patches * sum(p.numel() for p in tower.parameters()))


def score(plain: bool) -> Side:
    """R_I of the sentences of 8 trees of 80 nodes: nodes a second."""
    from csr_core.config import RewardSettings
    from csr_core.reward.scorer import SentenceScorer

    pictures, nodes, distinct = (1, 24, 24) if plain else (8, 80, 60)
    with tempfile.TemporaryDirectory() as folder:
        settings = RewardSettings(model=str(midsize.clip(Path(folder) / "clip")), device="cpu")
        scorer = SentenceScorer(settings)
    draw = torch.Generator().manual_seed(1)
    images, pairs = {}, []
    for number in range(pictures):
        noise = torch.randint(0, 256, (224, 224, 3), generator=draw, dtype=torch.uint8).numpy()
        images[f"i{number}"] = Image.fromarray(noise)
        # Siblings and cousins often say the same: some sentences of a tree are equal.
        said = [f"a picture with object {number * 100 + n % distinct} beside a house and a tree" for n in range(nodes)]
        pairs += [(f"i{number}", text) for text in said]
    started = time.monotonic()
    if plain:
        made = [_one_pair(scorer, images[name], text) for name, text in pairs]
    else:
        for name, image in images.items():
            scorer.add_image(name, image)
        made = scorer.relevances(pairs)
    return {"rate": len(pairs) / (time.monotonic() - started), "made": made[:24], "note": f"{len(pairs)} nodes"}


def _one_pair(scorer: Any, image: Any, text: str) -> float:
    """The picture and the sentence go through their towers for this pair alone."""
    from csr_core.reward.relevance import image_relevance

    picture = scorer.embedder.embed_images(scorer.embedder.prepare(image)[None])[0]
    row, _ = scorer.embedder.embed_texts([text])
    return float(image_relevance(picture, row, scorer.settings.relevance_floor)[0])


def finetune(plain: bool) -> Side:
    """DPO on pairs with 576 picture tokens and answers of about 120 words, LoRA on the language model: pairs a second.

    The plain side is stock TRL: its trainer, with chosen and rejected in rows of their own.
    """
    from csr_core.config import FinetuneSettings
    from csr_core.dpo import train as training
    from csr_core.dpo.pairs import Pairs

    count, size = 12, 4
    policy = midsize.llava(384)
    settings = FinetuneSettings(lora_rank=16, lora_alpha=32, learning_rate=1e-3, batch_size=size, warmup_share=0.0)
    if plain:
        training.shares_prompts = lambda *_: False
    with tempfile.TemporaryDirectory() as folder:
        rows = midsize.pairs(policy, count, 384, Path(folder) / "images")
        started = time.monotonic()
        trained = training.train(policy, Pairs(rows, []), settings, 0, 10**6, Path(folder) / "work")
        seconds = time.monotonic() - started
    prompt = policy.encode(Image.open(io.BytesIO(midsize.png(384))), rows[0]["prompt"]).length
    tokens = sum(len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows)
    # Forward for policy and reference, backward through the activations alone: the weights are frozen.
    language = 3 * 2 * (_language(policy) * tokens + _layers(policy) * prompt * count)
    return {
        "rate": count / seconds,
        "made": [row["loss"] for row in trained.log],
        "tolerance": 1e-4,
        "operations": (language + 2 * _vision(policy) * count) / count,
        "note": f"{prompt} prompt tokens, {tokens / count / 2:.0f} an answer, batches of {size}",
    }


def evaluate(plain: bool) -> Side:
    """Greedy answers of 32 tokens to seven questions on each of four pictures: answers a second; against `generate`."""
    from csr_core.evaluation.answers import greedy_rows
    from csr_core.policy import PromptInputs, collate
    from csr_core.search.prefixes import Prefixes

    tokens = 32
    policy = midsize.llava(224)
    pictures = midsize.prompts(policy, 4, 224)
    asks = [
        PromptInputs({name: value[: value.shape[0] - n] for name, value in one.sequence.items()}, one.features)
        for one in pictures
        for n in range(7)
    ]
    started = time.monotonic()
    if plain:
        inputs = collate(asks, [()] * len(asks), policy.pad_id, policy.device)
        rows = policy.model.generate(
            **inputs, do_sample=False, max_new_tokens=tokens, pad_token_id=policy.pad_id,
            suppress_tokens=list(policy.suppressed_ids),
        )  # fmt: skip
        made = rows[:, inputs["input_ids"].shape[1] :].tolist()
        made = [row[: row.index(3)] if 3 in row else row for row in made]
    else:
        made = [ids for _, ids in sorted(greedy_rows(Prefixes(policy), asks, tokens, len(asks)))]
    return {
        "rate": len(asks) / (time.monotonic() - started),
        "made": made,
        "note": f"{len(asks)} answers on 4 pictures, one batch",
    }


ROWS: dict[str, tuple[Callable[[bool], Side], str]] = {
    "generate-mid-196": (lambda plain: generate(224, plain), "prompts/s"),
    "generate-mid-576": (lambda plain: generate(384, plain), "prompts/s"),
    "score-mid": (score, "nodes/s"),
    "finetune-mid": (finetune, "pairs/s"),
    "evaluate-mid": (evaluate, "answers/s"),
}


def matrix_rate(seconds: float = 2.0) -> float:
    """Operations a second of a product of two large float32 matrices."""
    left, right = torch.randn(2048, 2048), torch.randn(2048, 2048)
    done, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        left @ right
        done += 1
    return done * 2 * 2048**3 / (time.monotonic() - started)


def equal(ours: Any, theirs: Any, tolerance: float) -> bool:
    """Lists of numbers to `tolerance`, all else exactly."""
    if isinstance(ours, list) and ours and isinstance(ours[0], float):
        return bool(torch.allclose(torch.tensor(ours), torch.tensor(theirs), atol=tolerance, rtol=tolerance))
    return bool(ours == theirs)


def _measured(name: str, which: str) -> Side:
    """One side, in a process of its own: ours, plain, or growth."""
    words = [sys.executable, "-m", "benchmarks.speed", "--side", name, which]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _row(name: str, rate: float) -> dict[str, Any]:
    ours, theirs = _measured(name, "ours"), _measured(name, "plain")
    row = {
        "name": name,
        "ratio": round(ours["rate"] / theirs["rate"], 2),
        "ours": round(ours["rate"], 4),
        "theirs": round(theirs["rate"], 4),
        "unit": ROWS[name][1],
        "floor": round(rate / ours["operations"], 4) if "operations" in ours else None,
        "equal": equal(ours["made"], theirs["made"], ours.get("tolerance", 1e-5)),
        "peak_ours_mib": ours["peak_mib"],
        "peak_theirs_mib": theirs["peak_mib"],
        "note": ours["note"],
    }
    if row["floor"]:
        row["share_of_floor"] = round(ours["rate"] / row["floor"], 3)
    return row


def _table(rows: list[dict[str, Any]], heads: list[str]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(str(row.get(head, "")) for head in heads) + " |" for row in rows)])


HEADS = [
    "name", "ratio", "ours", "theirs", "unit", "floor", "share_of_floor", "equal", "peak_ours_mib", "peak_theirs_mib",
    "note",
]  # fmt: skip
GROWTH_HEADS = ["size", "prompts", "width", "sentences", "tokens", "seconds", "peak_mib"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", choices=ROWS, default=list(ROWS))
    parser.add_argument("--growth", action="store_true", help="also how time and memory grow, and each stage's share")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        name, which = args.side
        side = growth.grow(name) if which == "growth" else ROWS[name][0](which == "plain")
        side["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps(side))
        return 0
    rate = matrix_rate()
    found: dict[str, Any] = {"matrix_gflops": round(rate / 1e9, 1), "cores": os.cpu_count(), "rows": []}
    print(f"matrix rate {rate / 1e9:.0f} Gflop/s on {torch.get_num_threads()} threads", flush=True)
    for name in args.rows:
        found["rows"].append(_row(name, rate))
        write_json(OUT, found)
    print(f"\n{_table(found['rows'], HEADS)}", flush=True)
    if args.growth:
        found["growth"] = [_measured(name, "growth") for name in growth.SIZES]
        found["shares"] = growth.shares()
        write_json(OUT, found)
        total = sum(found["shares"].values())
        print(f"\n{_table(found['growth'], GROWTH_HEADS)}\n")
        print("\n".join(f"{name}: {took} s, {took / total:.0%}" for name, took in found["shares"].items()))
    return 0 if all(row["equal"] for row in found["rows"]) else 1


if __name__ == "__main__":
    sys.exit(main())
