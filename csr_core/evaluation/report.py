"""From a model's answers on a split to its figures, beside those of the previous model and the base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from csr_core.evaluation.chair import CaptionScore, chair
from csr_core.evaluation.pope import pope
from csr_core.evaluation.priors import prior_item, repeats
from csr_core.evaluation.splits import Split
from csr_core.evaluation.statistics import Item, compare, measure
from csr_core.evaluation.truncation import control_at_recall, control_points
from csr_core.evaluation.watching import watched_items

Rows = Sequence[Mapping[str, Any]]
Metrics = dict[str, dict[str, Any]]


def split_metrics(
    split: Split,
    captions: Rows,
    questions: Rows,
    others: Mapping[str, tuple[Rows, Rows]],
    resamples: int = 2000,
) -> tuple[Metrics, dict[str, Any]]:
    """(figures, summary) of the answers `captions` and `questions` on `split`.

    `others`: "previous" and "base" -> their (captions, questions); each figure gets its paired difference to them,
    `vs_previous` and `vs_base`. The truncation control is made of the base's captions; without a base, of `captions`.
    The summary has all `items` that were counted, and what was `left_out`, for the caller to take out.
    """
    scores, left_out = _scores(split, captions)
    answers = pope(split.questions, questions)
    items = [*caption_items(split, scores), *watched_items(captions), *answers.items]
    metrics: Metrics = {name: figure.as_dict() for name, figure in measure(items, resamples).items()}
    for other, (their_captions, their_questions) in others.items():
        theirs = [*caption_items(split, _scores(split, their_captions)[0]), *watched_items(their_captions)]
        theirs += pope(split.questions, their_questions).items
        for name, difference in compare(items, theirs, resamples).items():
            metrics[name][f"vs_{other}"] = difference.as_dict()
    base = _scores(split, others["base"][0])[0] if "base" in others else scores
    summary: dict[str, Any] = {"captions": len(scores), "questions": len(answers.items), "items": items}
    summary |= _control(split, base, items, metrics, resamples)
    asked = {str(row["image_id"]) for row in captions} | {_question_key(row) for row in questions}
    # What could not be answered is named where it was asked; here only what was answered and cannot be scored.
    summary["left_out"] = [item for item in (*left_out, *answers.left_out) if item["prompt_id"] in asked]
    return metrics, summary


def caption_items(split: Split, scores: Sequence[CaptionScore]) -> list[Item]:
    """The counts of CHAIR, of repeated sentences, and of companions named, one item a caption."""
    items = []
    for score in scores:
        item = score.item()
        counts = {"repeats": repeats([score.caption]), **prior_item(score, split.companions).counts}
        items.append(Item(item.key, item.image, item.counts | counts))
    return items


def _scores(split: Split, captions: Rows) -> tuple[list[CaptionScore], list[dict[str, str]]]:
    result = chair(captions, split.truth, split.parser)
    return result.scores, result.left_out


def _question_key(row: Mapping[str, Any]) -> str:
    return f"{row.get('category') or ''}/{row.get('question_id')}"


def _control(
    split: Split, base: Sequence[CaptionScore], items: Sequence[Item], metrics: Metrics, resamples: int
) -> dict[str, Any]:
    """Put the control's CHAIR_i at this model's recall among the figures; return the whole control curve."""
    points = control_points(base, split.parser)
    if not points or "recall" not in metrics:
        return {"truncation_control": []}
    control = control_at_recall(points, metrics["recall"]["value"])
    entry = measure(control, resamples)["chair_i_control"].as_dict()
    metrics["chair_i_control"] = entry
    # The same name on both sides: difference of the model's CHAIR_i to the control's, on the same pictures.
    as_chair = [Item(item.key, item.image, {"chair_i": item.counts["chair_i_control"]}) for item in control]
    for name, difference in compare(items, as_chair, resamples).items():
        metrics[name]["vs_control"] = difference.as_dict()
    return {"truncation_control": [point.as_dict() for point in points], "control_at_recall": entry["value"]}
