"""The model card of what an iteration made: where it comes from, by digest, and what was measured, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from csr_core.preference.card import portable, table
from csr_core.report import COLUMNS, figure

# Of the run, not of what it made.
LEFT_OUT = ("run.", "tracking.", "evaluate.splits.", "evaluate.benchmarks.", "evaluate.judge.url")

TEXT = """\
---
{metadata}---
# {base}, iteration {iteration} of CSR

A vision-language model trained to hallucinate less by Calibrated Self-Rewarding
([arXiv 2405.14622](https://arxiv.org/abs/2405.14622)): it wrote answers about pictures, rated each sentence by its own
likelihood and by how well a contrastive model says it matches the picture, and was trained by DPO on its best and worst
answers, {iteration} time(s) over. Nobody labelled anything.

{stop}{form}

## Where it comes from
{sources}

## What was measured
Greedy answers on held-out pictures; 95 % intervals by bootstrap over pictures.

{metrics}

## Settings
{settings}
"""

SHIPPED = "csr_core/miniature/weights/llava"  # in a checkout of the project

ADAPTER = """\
These files are a PEFT adapter. It goes on the base model of the digest below, and no other:

```python
from peft import PeftModel
from transformers import AutoModelForImageTextToText

model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained("{base}"), "FOLDER")
```"""

MERGED = """\
These files are the whole model, the adapter merged in float32 and written as {dtype}:

```python
from transformers import AutoModelForImageTextToText, AutoProcessor

model, processor = AutoModelForImageTextToText.from_pretrained("FOLDER"), AutoProcessor.from_pretrained("FOLDER")
```"""


def model_card(
    settings: Mapping[str, Any],
    iteration: int,
    digests: Mapping[str, str | None],
    metrics: Sequence[Mapping[str, Any]],
    merged_as: str | None = None,
    stop: str = "",
) -> str:
    """The text of README.md.

    Args:
        settings: section.key -> value, of the run that made it.
        digests: name of a source (base model, preference pairs, ...) -> SHA-256 of its files.
        metrics: {split: {figure: {value, low, high, n}}} of the base and of each iteration up to this one.
        merged_as: the dtype of merged weights; None: the files are an adapter.
        stop: that a guard stopped this iteration, where one did.
    """
    path = settings["model.path"]
    base = portable(path)
    metadata: dict[str, Any] = {"pipeline_tag": "image-text-to-text", "tags": ["csr", "dpo", "vision", "hallucination"]}
    metadata["library_name"] = "transformers" if merged_as else "peft"
    if base == path and base.count("/") == 1:
        metadata["base_model"] = base  # a name on the hub
    chosen = {name: portable(value) for name, value in settings.items() if not name.startswith(LEFT_OUT)}
    return TEXT.format(
        metadata=yaml.safe_dump(metadata, sort_keys=False),
        base=base,
        iteration=iteration,
        stop=f"**{stop}**\n\n" if stop else "",
        form=MERGED.format(dtype=merged_as)
        if merged_as
        else ADAPTER.format(base=SHIPPED if base == "miniature" else base),
        sources=table(("", "SHA-256"), digests),
        metrics="\n\n".join(_metrics(split, metrics) for split in metrics[-1]) if metrics else "Nothing.",
        settings=table(("setting", "value"), chosen),
    )


def _metrics(split: str, metrics: Sequence[Mapping[str, Any]]) -> str:
    names = [name for name in COLUMNS if name in metrics[0][split]]
    head = f"| {split} | " + " | ".join(COLUMNS[name][0] for name in names) + " |"
    lines = [head, "|---" * (len(names) + 1) + "|"]
    for iteration, measured in enumerate(metrics):
        cells = [figure(measured[split][name], name) if name in measured[split] else "-" for name in names]
        lines.append("| " + " | ".join([f"iteration {iteration}" if iteration else "base", *cells]) + " |")
    return "\n".join(lines)


def read_metrics(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The metrics files that are there, up to the first that is not."""
    from csr_core.records import read_json

    found: list[dict[str, Any]] = []
    for path in paths:
        if not path.is_file():
            break
        found.append(dict(read_json(path)))
    return found
