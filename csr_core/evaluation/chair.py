"""CHAIR: which objects a caption names that are not in the picture (Rohrbach et al. 2018, arXiv 1809.02156).

CHAIR_i = hallucinated mentions / mentions                  over all captions
CHAIR_s = captions with a hallucinated mention / captions
recall  = objects of the picture that are mentioned / objects of the picture
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from csr_core.evaluation.objects import ObjectParser, object_parser
from csr_core.evaluation.statistics import Counts, Item


@dataclass(frozen=True)
class CaptionScore:
    """What one caption mentions, against the objects of its picture."""

    key: tuple[int | str, int]  # image id, and 0, 1, ... for several captions of one picture
    caption: str
    mentions: tuple[str, ...]  # category of each mention, in order
    truth: frozenset[str]

    @property
    def image_id(self) -> int | str:
        return self.key[0]

    @property
    def hallucinated(self) -> tuple[str, ...]:
        """Category of each mention that is not in the picture."""
        return tuple(name for name in self.mentions if name not in self.truth)

    @property
    def found(self) -> frozenset[str]:
        """Objects of the picture that are mentioned."""
        return self.truth & set(self.mentions)

    @property
    def words(self) -> int:
        return len(self.caption.split())

    def item(self) -> Item:
        """Its part of each of CHAIR's figures."""
        wrong = len(self.hallucinated)
        counts: Counts = {
            "chair_i": (wrong, len(self.mentions)),
            "chair_s": (float(wrong > 0), 1),
            "recall": (len(self.found), len(self.truth)),
            "words": (self.words, 1),
        }
        return Item(self.key, self.image_id, counts)


@dataclass
class ChairResult:
    """Scores of the usable captions, and what was left out with the reason."""

    scores: list[CaptionScore] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)  # prompt_id (the image), reason


def image_key(value: Any) -> int | str:
    """COCO's image ids are numbers; a file may hold them as text ("000000000042")."""
    return int(value) if isinstance(value, int) or (isinstance(value, str) and value.isdecimal()) else str(value)


def chair(
    captions: Sequence[Mapping[str, Any]],
    truth: Mapping[int | str, Iterable[str]],
    parser: ObjectParser | None = None,
) -> ChairResult:
    """Score `captions` (rows `image_id, caption`) against `truth` (image id -> categories in the picture).

    Rows without the two fields, and pictures that `truth` does not know, are left out and named.
    """
    parser = parser or object_parser()
    result = ChairResult()
    seen: dict[int | str, int] = {}
    for number, row in enumerate(captions, 1):
        if not isinstance(row.get("caption"), str) or not isinstance(row.get("image_id"), int | str):
            reason = f"row {number}: expected image_id (a number) and caption (a text), got {dict(row)!r:.200}"
            result.left_out.append({"prompt_id": str(row.get("image_id")), "reason": reason})
            continue
        image = image_key(row["image_id"])
        if image not in truth:
            reason = f"row {number}: the instances file has no picture {image}"
            result.left_out.append({"prompt_id": str(image), "reason": reason})
            continue
        turn = seen[image] = seen.get(image, -1) + 1
        mentions = tuple(parser.mentions(row["caption"]))
        result.scores.append(CaptionScore((image, turn), row["caption"], mentions, frozenset(truth[image])))
    return result


def fold_references(
    truth: Mapping[int | str, Iterable[str]],
    references: Mapping[int | str, Iterable[str]],
    parser: ObjectParser | None = None,
) -> dict[int | str, set[str]]:
    """`truth` with the objects added that people's reference captions mention, as the benchmark does.

    Segmentations are incomplete: what a person wrote about the picture counts as being there.
    """
    parser = parser or object_parser()
    return {
        image: set(names) | {name for caption in references.get(image, ()) for name in parser.mentions(caption)}
        for image, names in truth.items()
    }
