"""The dataset card of an iteration's preference pairs: a README.md with the metadata that `datasets` and hubs read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from csr_core.config import Settings

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))

# The settings without which the pairs cannot be understood; params.yaml says what each means.
DECIDING = {
    "data": ("prompts",),
    "generate": ("method", "width", "temperature", "keep_best", "keep_worst", "keep_by", "max_sentences"),
    "reward": ("model", "image_weight", "combine", "likelihood", "likelihood_scale", "repeats_earn_nothing"),
    "pair": ("path_score", "threshold", "min_margin", "same_length_share", "drop_closest"),
}

COLUMNS = {
    "images": "path of the picture, relative to the folder of the run; the pictures themselves are not in here",
    "prompt": "what was asked, as one message of the user",
    "chosen": "the answer with the best path score, as one message of the assistant",
    "rejected": "the answer with the worst path score",
    "prompt_id": "the prompt's id in the data the run was given",
    "chosen_reward": "path score of `chosen`; higher is better under every rule",
    "rejected_reward": "path score of `rejected`",
    "margin": "`chosen_reward` - `rejected_reward`, above 0",
    "chosen_nodes": "the sentences of `chosen`, as nodes of the scored tree of the run, from the first to the last",
    "rejected_nodes": "the sentences of `rejected`",
}

TEXT = """\
---
{metadata}---
# Preference pairs of CSR, iteration {iteration}

For each picture the answer that a vision-language model's own calibrated reward rates best (`chosen`) and the one it
rates worst (`rejected`), for DPO. Made by Calibrated Self-Rewarding ([arXiv 2405.14622](https://arxiv.org/abs/2405.14622)),
preset `{preset}`: nobody labelled anything, so a `chosen` answer is better by that reward and may still be wrong.

## The model that answered
{model}. Its files have the SHA-256 digest `{digest}`.

## Counts
{counts}

## Margins
{margins}

## Settings
{settings}

## Columns
{columns}

{loading}"""

IMPORTED = """\
---
{metadata}---
# Preference pairs of iteration {iteration}, imported

Brought in from `{source}` with `csr import preferences`; no model of this run answered, and nothing was scored here.
Scores, margins and nodes are null where that set had none.

## Counts
{counts}

## Texts
{texts}

## Columns
{columns}

{loading}"""

LOADING = """\
## Loading it
```python
from datasets import load_dataset

pairs = load_dataset("FOLDER", split="train")  # the folder of this file
```
This is TRL's format for DPO on pictures. The paths in `images` hold where the run was made: change into its folder, or
put another folder before them.
"""


def card(settings: Settings, iteration: int, summary: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """The text of README.md for the pairs of `iteration`; the same for the same arguments, on every machine.

    Args:
        summary: what stage `pair` returns: prompts, pairs, left_out_by_reason, diversity and so on.
        model: the model the candidates came from: its `path`, its `digest`, the `iteration` it came out of (0: base).
    """
    return TEXT.format(
        metadata=_metadata(f"CSR preference pairs, iteration {iteration}", summary["pairs"]),
        iteration=iteration,
        preset=settings.preset,
        model=_model(settings, model),
        digest=model["digest"],
        counts=_counts(summary),
        margins=_margins(summary["diversity"]),
        settings=_settings(settings),
        columns=_columns(),
        loading=LOADING,
    )


def imported_card(iteration: int, summary: Mapping[str, Any]) -> str:
    """The text of README.md for pairs that were imported; `summary` is that of `csr_core.stages.imported`."""
    return IMPORTED.format(
        metadata=_metadata(f"Imported preference pairs, iteration {iteration}", summary["pairs"]),
        iteration=iteration,
        source=summary["imported"],
        counts=_counts(summary),
        texts=table(("", "value"), {name: f"{value:.4g}" for name, value in _texts(summary["diversity"]).items()}),
        columns=_columns(),
        loading=LOADING,
    )


def _metadata(name: str, pairs: int) -> str:
    metadata = {
        "pretty_name": name,
        "task_categories": ["image-text-to-text"],
        "tags": ["preference", "dpo", "vision"],
        "size_categories": [_size(pairs)],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "preferences.parquet"}]},
        ],
    }
    return yaml.safe_dump(metadata, sort_keys=False)


def _columns() -> str:
    return table(("column", "meaning"), {f"`{name}`": text for name, text in COLUMNS.items()})


def _size(pairs: int) -> str:
    return next((name for limit, name in SIZES if pairs < limit), "n>1M")


def _model(settings: Settings, model: Mapping[str, Any]) -> str:
    if model["iteration"] == 0:
        return f"`{portable(model['path'])}`, the base model"
    base = portable(settings.model.path)
    return f"`{portable(model['path'])}`, what iteration {model['iteration']} made of the base model `{base}`"


def portable(value: Any) -> Any:
    """A path of this machine says nothing on another: its last part does."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _counts(summary: Mapping[str, Any]) -> str:
    rows = {
        "prompts": summary["prompts"],
        "pairs": summary["pairs"],
        "left out": len(summary["left_out"]),
        **{f"left out: {reason}": count for reason, count in sorted(summary["left_out_by_reason"].items())},
    }
    return table(("", "number"), rows)


def _margins(diversity: Mapping[str, Any]) -> str:
    margin, edges = diversity["margin"], diversity["margin"]["histogram"]["edges"]
    rows = {
        "least margin": edges[0],
        "median margin": margin["median"],
        "mean margin": margin["mean"],
        "greatest margin": edges[-1],
        **_texts(diversity),
    }
    return table(("", "value"), {name: f"{value:.4g}" for name, value in rows.items()})


def _texts(diversity: Mapping[str, Any]) -> dict[str, float]:
    return {
        "words of `chosen`, mean": diversity["words"]["chosen"],
        "words of `rejected`, mean": diversity["words"]["rejected"],
        "words that differ, share": diversity["edit_distance"],
    }


def _settings(settings: Settings) -> str:
    rows: dict[str, Any] = {"seed": settings.seed}
    for section, names in DECIDING.items():
        rows |= {f"{section}.{name}": portable(getattr(getattr(settings, section), name)) for name in names}
    return table(("setting", "value"), rows)


def table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---|"]
    for name, value in rows.items():
        text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        lines.append("| " + " | ".join(part.replace("|", "\\|") for part in (name, text)) + " |")
    return "\n".join(lines)
