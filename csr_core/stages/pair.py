"""Stage `pair`: from each scored tree its best and its worst answer, as rows for preference training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from csr_core.config import Settings
from csr_core.errors import InputError
from csr_core.preference.diversity import diversity_report
from csr_core.preference.pairs import CLOSEST, Pair, pair_of_tree, wants_same_length, without_closest
from csr_core.progress import Progress
from csr_core.records import PREFERENCES, PROMPTS, SCORES, pictures_of, read_table, write_json, write_table
from csr_core.stages.parts import part_files, trees_of_part


def pair(settings: Settings, iteration: int, prompts: Path, scores: Path, out: Path) -> dict[str, Any]:
    """Write `out/preferences.parquet` (PREFERENCES schema, by prompt_id) and the summary with the diversity report.

    chosen_reward and rejected_reward are path scores, higher is better under every rule (mean ranks with their sign
    turned), margin their difference, above 0.

    Raises:
        InputError: no pair at all came out (with the counts of the reasons), or a table is missing or of another stage.
    """
    known = {row["prompt_id"]: row for row in read_table(prompts, PROMPTS)}
    files = part_files(scores)
    made: list[Pair] = []
    left_out: list[dict[str, str]] = []
    same_length: set[str] = set()
    seen: set[str] = set()
    with Progress("pair", total=sum(pq.read_metadata(file).num_rows for file in files), unit="nodes") as bar:
        for file in files:
            for prompt_id, tree in trees_of_part(file, SCORES, seen).items():
                equal = wants_same_length(prompt_id, settings.seed, iteration, settings.pair.same_length_share)
                found: Pair | str = "not among the prompts of this iteration"
                if prompt_id in known:
                    found = pair_of_tree(prompt_id, tree, settings.pair, equal)
                if isinstance(found, str):
                    left_out.append({"prompt_id": prompt_id, "reason": found})
                else:
                    made.append(found)
                    same_length |= {prompt_id} if equal else set()
                bar.advance(len(tree))
    kept, closest = without_closest(made, settings.pair.drop_closest)
    left_out += [{"prompt_id": item.prompt_id, "reason": CLOSEST} for item in closest]
    reasons = dict(sorted(Counter(item["reason"] for item in left_out).items()))
    if not kept:
        raise _no_pair(len(seen), reasons)
    write_table(out / "preferences.parquet", [_row(item, known[item.prompt_id]) for item in kept], PREFERENCES)
    summary = {
        "prompts": len(seen),
        "pairs": len(kept),
        "pairs_of_equal_length_asked": sum(item.prompt_id in same_length for item in kept),
        "left_out_by_reason": reasons,
        "left_out": sorted(left_out, key=lambda item: item["prompt_id"]),
        "diversity": diversity_report(kept),
    }
    write_json(out / "summary.json", summary)
    return summary


def _row(pair: Pair, prompt: dict[str, Any]) -> dict[str, Any]:
    return {
        "images": pictures_of(prompt),
        "prompt": [{"role": "user", "content": prompt["prompt"]}],
        "chosen": [{"role": "assistant", "content": pair.chosen.text}],
        "rejected": [{"role": "assistant", "content": pair.rejected.text}],
        "prompt_id": pair.prompt_id,
        "chosen_reward": pair.chosen.value,
        "rejected_reward": pair.rejected.value,
        "margin": pair.margin,
        "chosen_nodes": list(pair.chosen.nodes),
        "rejected_nodes": list(pair.rejected.nodes),
    }


def _no_pair(prompts: int, reasons: dict[str, int]) -> InputError:
    counts = "; ".join(f"{reason}: {count}" for reason, count in reasons.items()) or "there are no scored prompts"
    return InputError(
        f"not one of {prompts} prompts gave a pair of a chosen and a rejected answer ({counts}). "
        "Equal texts or small margins: the candidates are too alike; raise generate.width or generate.temperature, "
        "or lower pair.min_margin. No complete answer: the search stops before answers end; raise "
        "generate.max_sentences or generate.max_sentence_tokens. Too few of equal length: lower pair.same_length_share"
    )
