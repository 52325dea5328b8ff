"""What the guards need to know of answers: their relevance to the reward's model and to one that is held out.

Where the reward's own model is being fooled, its relevance goes up and the other's does not: that one watches, and
nothing is ever trained on what it says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_core.config import RewardSettings, Settings
from csr_core.errors import CsrError
from csr_core.evaluation.chair import image_key
from csr_core.evaluation.likelihoods import likelihood_counts
from csr_core.evaluation.statistics import Item
from csr_core.images import open_image
from csr_core.search.sentences import split_sentences

if TYPE_CHECKING:
    from csr_core.reward.scorer import SentenceScorer

RELEVANCES = ("relevance", "held_out_relevance")
TOTAL = "relevance_total"  # of the first


def add_relevance(
    rows: Sequence[dict[str, Any]], pictures: Mapping[Any, Path], scorers: Sequence[SentenceScorer], max_pixels: int
) -> None:
    """Set RELEVANCES of each caption row: the mean over its sentences of 100 * cos(picture, sentence), None without.

    TOTAL is their sum by the reward's model, which a sum of rewards makes grow. `pictures`: image id -> file.
    `scorers`: of `watching_models`.
    """
    for name, scorer in zip(RELEVANCES, scorers, strict=False):
        for row in rows:
            said = split_sentences(row["caption"])
            row[name] = None
            if not said:
                continue
            file = pictures[row["image_id"]]
            try:
                picture = hashlib.sha256(file.read_bytes()).hexdigest()  # under which embeddings are kept
                if not scorer.knows(picture):
                    scorer.add_image(picture, open_image(file, max_pixels))
            except (CsrError, OSError):  # gone since it was asked about
                continue
            found = scorer.relevances([(picture, sentence) for sentence in said])
            row[name] = sum(found) / len(found)
            if name == RELEVANCES[0]:
                row[TOTAL] = sum(found)


def watching_models(settings: Settings) -> list[RewardSettings]:
    """The reward's model, and the held-out one where there is one, as the scorer takes them: cosines, no floor."""
    names = [settings.reward.model, settings.evaluate.held_out_model]
    more = {"device": settings.reward.device, "batch_size": settings.reward.batch_size, "relevance_floor": False}
    return [RewardSettings(model=name, **more) for name in names if name is not None]


def watched_items(captions: Sequence[Mapping[str, Any]]) -> list[Item]:
    """One item a caption: its relevances, to be averaged over captions, and its likelihoods."""
    seen: dict[int | str, int] = {}
    items = []
    for row in captions:
        image = image_key(row.get("image_id"))
        turn = seen[image] = seen.get(image, -1) + 1
        known = {name: row[name] for name in (*RELEVANCES, TOTAL) if isinstance(row.get(name), int | float)}
        counts = {name: (float(value), 1.0) for name, value in known.items()} | likelihood_counts(row)
        items.append(Item((image, turn), image, counts))
    return items
