"""Stage `evaluate`: greedy answers on the held-out splits, and the figures they give, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csr_core.config import Settings
from csr_core.errors import InputError
from csr_core.evaluation.answers import Ask, Encoder, greedy_answers
from csr_core.evaluation.report import Rows, split_metrics
from csr_core.evaluation.sources import read_rows
from csr_core.evaluation.splits import Split, read_split
from csr_core.policy import Policy, load_policy
from csr_core.records import write_json, write_jsonl

YES_NO_TOKENS = 16  # enough for a yes or no with its reason: only the first sentence is read


def evaluate(
    settings: Settings,
    splits: dict[str, Path],
    adapter: Path | None,
    answers: Path,
    metrics: Path,
    previous: Path | None = None,
    base: Path | None = None,
) -> dict[str, Any]:
    """Measure the model of `adapter` (None: the base) on `splits` (name -> folder, see `read_split`).

    Writes, for each split, `answers/{split}_captions.jsonl` and `answers/{split}_questions.jsonl`; the figures to
    `metrics` as {split: {name: {value, low, high, n}}}, where figures also have `vs_previous` and `vs_base` (paired
    differences) where `previous` and `base`, answers folders of other models, are given; and `answers/summary.json`.

    Raises:
        InputError: a split cannot be used, the model cannot be loaded, or not one picture of a split can be read.
    """
    # All splits are read before the model is loaded: a wrong file is found at once.
    found = [read_split(name, folder, _count(settings, name)) for name, folder in splits.items()]
    policy = load_policy(settings.model, adapter)
    figures: dict[str, Any] = {}
    summary: dict[str, Any] = {"splits": {}, "left_out": []}
    for split in found:
        left_out = [*split.left_out, *_answer(settings, policy, split, answers)]
        rows = _answers(answers, split.name)
        if not any(rows):
            raise InputError(
                f"evaluate.splits.{split.name}: nothing could be answered. {left_out[0]['reason'] if left_out else ''}"
            )
        others = {
            label: _answers(folder, split.name) for label, folder in (("previous", previous), ("base", base)) if folder
        }
        figures[split.name], part = split_metrics(split, *rows, others, settings.evaluate.bootstrap)
        left_out += part.pop("left_out")
        summary["splits"][split.name] = part
        summary["left_out"] += [{"split": split.name, **item} for item in left_out]
    write_json(metrics, figures)
    write_json(answers / "summary.json", summary)
    return summary


def _count(settings: Settings, name: str) -> int | None:
    chosen = settings.evaluate.splits.get(name)
    return chosen.count if chosen else None


def _answer(settings: Settings, policy: Policy, split: Split, answers: Path) -> list[dict[str, str]]:
    """Write both answer files of a split; returns what was left out."""
    encoder = Encoder(policy, settings.data.max_pixels)
    batch = settings.evaluate.batch_size
    asks = [Ask(str(row["image_id"]), row["path"], row["prompt"]) for row in split.captions]
    texts, left_out = greedy_answers(
        policy, asks, settings.evaluate.max_new_tokens, batch, encoder, f"{split.name} captions"
    )
    write_jsonl(
        answers / f"{split.name}_captions.jsonl",
        [
            {key: row[key] for key in ("image_id", "image", "prompt")} | {"caption": text}
            for row, text in zip(split.captions, texts, strict=True)
            if text is not None
        ],
    )
    asks = [Ask(f"{row['category']}/{row['question_id']}", row["path"], row["text"]) for row in split.questions]
    texts, missing = greedy_answers(policy, asks, YES_NO_TOKENS, batch, encoder, f"{split.name} questions")
    write_jsonl(
        answers / f"{split.name}_questions.jsonl",
        [
            {key: row[key] for key in ("question_id", "image", "text", "label", "category")} | {"answer": text}
            for row, text in zip(split.questions, texts, strict=True)
            if text is not None
        ],
    )
    return left_out + missing


def _answers(folder: Path, split: str) -> tuple[Rows, Rows]:
    """(captions, questions) of an answers folder; empty where a model was not asked."""
    captions, questions = folder / f"{split}_captions.jsonl", folder / f"{split}_questions.jsonl"
    return (
        read_rows(captions, ("image_id", "caption")) if captions.is_file() and captions.stat().st_size else [],
        read_rows(questions, ("question_id", "answer")) if questions.is_file() and questions.stat().st_size else [],
    )
