"""The truncation control: saying less also lowers CHAIR_i, so how much is bought by merely stopping early?

The base model's captions are cut to their first k sentences. A model that has learnt to look must hallucinate clearly
less than the base's captions cut so that they have the same recall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from csr_core.evaluation.chair import CaptionScore
from csr_core.evaluation.objects import ObjectParser, object_parser
from csr_core.evaluation.statistics import Item
from csr_core.search.sentences import split_sentences


@dataclass(frozen=True)
class ControlPoint:
    """The base's captions cut to their first `k` sentences."""

    k: int
    scores: tuple[CaptionScore, ...]

    @property
    def chair_i(self) -> float:
        return _share(sum(len(s.hallucinated) for s in self.scores), sum(len(s.mentions) for s in self.scores))

    @property
    def recall(self) -> float:
        return _share(sum(len(s.found) for s in self.scores), sum(len(s.truth) for s in self.scores))

    def as_dict(self) -> dict[str, float]:
        return {"k": self.k, "chair_i": self.chair_i, "recall": self.recall}


def truncate(text: str, k: int) -> str:
    """The first `k` sentences of `text`."""
    return " ".join(split_sentences(text)[:k])


def control_points(scores: Sequence[CaptionScore], parser: ObjectParser | None = None) -> list[ControlPoint]:
    """The control for k = 1, 2, ... up to the longest caption. The last point is the captions as they are."""
    parser = parser or object_parser()
    split = [split_sentences(score.caption) for score in scores]
    points = []
    for k in range(1, max((len(parts) for parts in split), default=0) + 1):
        cut = []
        for score, parts in zip(scores, split, strict=True):
            text = " ".join(parts[:k]) if k < len(parts) else score.caption
            mentions = score.mentions if k >= len(parts) else tuple(parser.mentions(text))
            cut.append(CaptionScore(score.key, text, mentions, score.truth))
        points.append(ControlPoint(k, tuple(cut)))
    return points


def control_at_recall(points: Sequence[ControlPoint], recall: float) -> list[Item]:
    """Each caption's `chair_i_control` counts where the control's recall equals `recall`.

    Between two points, a share w of the captions is cut at k + 1 and the rest at k: in expectation the recall is then
    (1 - w) recall_k + w recall_{k+1}, which fixes w, and every caption counts (1 - w) of its counts at k and w of those
    at k + 1. A recall beyond the control's own range takes the nearest end: first sentences alone, or whole captions.
    """
    if not points:
        return []
    above = next((i for i, point in enumerate(points) if point.recall > recall), len(points) - 1)
    below = max(above - 1, 0)
    low, high = points[below].recall, points[above].recall
    w = min(max((recall - low) / (high - low), 0.0), 1.0) if high > low else 1.0
    items = []
    for a, b in zip(points[below].scores, points[above].scores, strict=True):
        wrong = (1 - w) * len(a.hallucinated) + w * len(b.hallucinated)
        counts = {"chair_i_control": (wrong, (1 - w) * len(a.mentions) + w * len(b.mentions))}
        items.append(Item(a.key, a.image_id, counts))
    return items


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
