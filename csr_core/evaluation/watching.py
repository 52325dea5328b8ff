"""The relevance of answers by a model that is held out: it watches, and nothing is ever trained on what it says.

Where the reward's own model is being fooled, its relevance goes up and this one's does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csr_core.config import RewardSettings, Settings
from csr_core.errors import CsrError
from csr_core.evaluation.chair import image_key
from csr_core.evaluation.statistics import Item
from csr_core.images import open_image
from csr_core.search.sentences import split_sentences

FIGURE = "held_out_relevance"


def add_relevance(rows: Sequence[dict[str, Any]], pictures: Mapping[Any, Path], settings: Settings) -> None:
    """Set FIGURE of each caption row: the mean over its sentences of 100 * cos(picture, sentence); None without any.

    `pictures`: image id -> file. Nothing happens where `evaluate.held_out_model` is null.
    """
    from csr_core.reward.scorer import SentenceScorer

    if settings.evaluate.held_out_model is None or not rows:
        return
    scorer = SentenceScorer(held_out(settings))
    for row in rows:
        said = split_sentences(row["caption"])
        row[FIGURE] = None
        if not said:
            continue
        try:
            scorer.add_image(str(row["image_id"]), open_image(pictures[row["image_id"]], settings.data.max_pixels))
        except CsrError:  # gone since it was asked about
            continue
        found = scorer.relevances([(str(row["image_id"]), sentence) for sentence in said])
        row[FIGURE] = sum(found) / len(found)


def held_out(settings: Settings) -> RewardSettings:
    """The held-out model, as the scorer takes it."""
    assert settings.evaluate.held_out_model is not None, "no model is held out"
    return RewardSettings(
        model=settings.evaluate.held_out_model, device=settings.reward.device, batch_size=settings.reward.batch_size
    )


def relevance_items(captions: Sequence[Mapping[str, Any]]) -> list[Item]:
    """One item a caption that has FIGURE: its value, to be averaged over captions."""
    seen: dict[int | str, int] = {}
    items = []
    for row in captions:
        image = image_key(row.get("image_id"))
        turn = seen[image] = seen.get(image, -1) + 1
        if isinstance(row.get(FIGURE), int | float):
            items.append(Item((image, turn), image, {FIGURE: (float(row[FIGURE]), 1.0)}))
    return items
