"""Made-up finished runs: the files that stages leave, of any size, without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from csr_core.layout import Layout
from csr_core.records import PREFERENCES, PROMPTS, SCORES, write_json, write_jsonl, write_table

# The same tree for every prompt: two next sentences of the root, two of the first, one of them dropped.
#   1 (grown) -> 3 (final), 4 (dropped); 2 (grown) -> 5 (final)
PARENTS = (None, 0, 0, 1, 1, 2)
CHOSEN, REJECTED = (1, 3), (2, 5)
WORDS = ("A dog runs.", " It has a ball.", " A fork lies there.", " The sky is blue.")


def metric(value: float, half: float = 0.02, **more: Any) -> dict[str, Any]:
    return {"value": value, "low": value - half, "high": value + half, "n": 50, **more}


def versus(difference: float, p: float) -> dict[str, float]:
    return {"difference": difference, "low": difference - 0.02, "high": difference + 0.02, "p": p, "p_holm": p}


def write_metrics(layout: Layout, iterations: int) -> None:
    """CHAIR_i falls by five points an iteration, clearly; recall by one, not clearly."""
    for k in range(iterations + 1):
        more = {"vs_base": versus(-0.05 * k, 0.0001)} if k else {}
        lost = {"vs_base": versus(-0.01 * k, 0.3)} if k else {}
        figures = {
            "chair_i": metric(0.22 - 0.05 * k, **more),
            "recall": metric(0.97 - 0.01 * k, **lost),
            "pope_accuracy": metric(0.9, **({"vs_base": versus(0.0, 1.0)} if k else {})),
            "words": metric(20 - k, 0.5),
            "kl": metric(0.1 * k, 0.01),
        }
        write_json(layout.metrics(k), {"test": figures})


def write_pictures(folder: Path, count: int, side: int = 96) -> list[str]:
    """Pictures that cannot be made much smaller, as photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 255, (side // 4, side // 3, 3), dtype=np.uint8))
        coarse.resize((side * 4 // 3, side), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    return [str(folder / f"{number}.jpg") for number in range(count)]


def write_iteration(layout: Layout, k: int, prompts: int, pictures: list[str], with_pair: float = 0.75) -> None:
    """Prompts, scored trees and pairs of iteration `k`, column by column: twelve thousand take a second."""
    names = [str(number) for number in range(prompts)]
    rows = [
        {
            "prompt_id": name,
            "image": pictures[number % len(pictures)],
            "prompt": f"What is in picture {name}?",
            "image_sha256": f"{number % len(pictures):064x}",
        }
        for number, name in enumerate(names)
    ]
    write_table(layout.prompts(k) / "prompts.parquet", rows, PROMPTS)
    _write_scores(layout.scores(k), names, k)
    paired = names[: int(with_pair * prompts)]
    write_table(
        layout.preferences(k) / "preferences.parquet", [_pair(name, number) for number, name in enumerate(paired)],
        PREFERENCES,
    )  # fmt: skip
    left_out = [
        {"prompt_id": name, "reason": ("equal texts", "margin too small")[number % 2]}
        for number, name in enumerate(names[len(paired) :])
    ]
    write_json(
        layout.preferences(k) / "summary.json",
        {
            "prompts": prompts,
            "pairs": len(paired),
            "left_out_by_reason": {"equal texts": len(left_out)},
            "left_out": left_out,
            "diversity": {"margin": {"mean": 1.0, "median": 1.0}, "words": {"chosen": 6.0, "rejected": 7.0}},
        },
    )


def _write_scores(folder: Path, names: list[str], k: int) -> None:
    size, nodes = len(names), len(PARENTS)
    random = np.random.default_rng(k)
    relevance = random.uniform(0, 40, size * nodes)
    likelihood = random.uniform(0, 1, size * nodes)
    root = np.tile(np.arange(nodes) == 0, size)
    columns = {
        "prompt_id": np.repeat(names, nodes),
        "node": np.tile(np.arange(nodes), size),
        "parent": pa.array(list(PARENTS) * size, pa.int32()),
        "depth": np.tile([0, 1, 1, 2, 2, 2], size),
        "text": np.tile(["", WORDS[0], WORDS[3], WORDS[1], WORDS[2], WORDS[1]], size),
        "token_ids": pa.array([[1, 2, 3]] * (size * nodes), pa.list_(pa.int32())),
        "log_likelihood": np.log(np.maximum(likelihood, 1e-9)),
        "score": likelihood,
        "is_final": np.tile([False, False, False, True, True, True], size),
        "expanded": np.tile([True, True, True, False, False, False], size),
        "relevance": pa.array(relevance, mask=root),
        "likelihood": pa.array(likelihood, mask=root),
        "reward": pa.array(0.9 * relevance + 0.1 * likelihood, mask=root),
        "likelihood_rank": pa.nulls(size * nodes, pa.float64()),
        "relevance_rank": pa.nulls(size * nodes, pa.float64()),
        "dropped": pa.array([None, None, None, None, "odd symbols", None] * size, pa.string()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).cast(SCORES), folder / "part-00000.parquet")


def _pair(name: str, number: int) -> dict[str, Any]:
    best = 60.0 + number % 40
    return {
        "images": [f"{name}.jpg"],
        "prompt": [{"role": "user", "content": f"What is in picture {name}?"}],
        "chosen": [{"role": "assistant", "content": WORDS[0] + WORDS[1]}],
        "rejected": [{"role": "assistant", "content": WORDS[3] + WORDS[1]}],
        "prompt_id": name,
        "chosen_reward": best,
        "rejected_reward": 20.0,
        "margin": best - 20.0,
        "chosen_nodes": list(CHOSEN),
        "rejected_nodes": list(REJECTED),
    }


def write_split(folder: Path, pictures: list[str]) -> None:
    """A held-out split in COCO's form: every picture holds a dog, and nothing else is known."""
    prompts = [{"id": number, "image": path, "prompt": "Describe it."} for number, path in enumerate(pictures)]
    write_jsonl(folder / "prompts.jsonl", prompts)
    instances = {
        "images": [{"id": number, "file_name": Path(path).name} for number, path in enumerate(pictures)],
        "annotations": [{"image_id": number, "category_id": 1} for number in range(len(pictures))],
        "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "fork"}],
    }
    (folder / "instances.json").write_text(json.dumps(instances), "utf-8")


def write_answers(layout: Layout, k: int, captions: list[str]) -> None:
    rows = [{"image_id": number, "prompt": "Describe it.", "caption": text} for number, text in enumerate(captions)]
    write_jsonl(layout.answers(k) / "test_captions.jsonl", rows)
