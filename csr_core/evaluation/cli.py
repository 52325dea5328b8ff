"""What `csr evaluate chair` and `csr evaluate pope` do: files in, figures with intervals out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from csr_core.errors import InputError
from csr_core.evaluation.benchmarks.mme import SUBTASKS
from csr_core.evaluation.chair import chair, fold_references
from csr_core.evaluation.objects import object_parser, reads_as_published
from csr_core.evaluation.pope import pope
from csr_core.evaluation.sources import read_instances, read_questions, read_references, read_rows
from csr_core.evaluation.statistics import Interval, measure

SCORES = ("perception", "cognition", *SUBTASKS)  # of MME, in points

log = logging.getLogger(__name__)
Result = dict[str, dict[str, float]]


def evaluate_chair(
    captions: Path, instances: Path, reference_captions: Path | None = None, published: bool | None = None
) -> Result:
    """CHAIR of a captions file (rows `image_id, caption`): chair_i, chair_s, recall (shares of 1) and words.

    `published` chooses how words are read (see `csr_core.evaluation.objects`): as behind the published figures, or
    corrected. By default the published way where the instances have COCO's own 80 categories.

    Raises:
        InputError: a file is not what it should be, or no caption can be scored.
    """
    found = read_instances(instances)
    parser = object_parser(reads_as_published(found.categories) if published is None else published)
    truth = found.truth
    if reference_captions is not None:
        truth = fold_references(truth, read_references(reference_captions), parser)
    result = chair(read_rows(captions, ("image_id", "caption")), truth, parser)
    _report(result.left_out, "captions")
    if not result.scores:
        raise InputError(
            f"none of the captions in {captions} belongs to a picture of {instances}: {result.left_out[0]['reason']}"
        )
    return _figures(measure([score.item() for score in result.scores]))


def evaluate_pope(answers: Path, questions: Sequence[Path]) -> Result:
    """POPE's official figures of an answers file (rows `question_id` and `text` or `answer`), over all question files.

    Raises:
        InputError: a file is not what it should be, or no question has an answer.
    """
    asked = read_questions(list(questions))
    result = pope(asked, read_rows(answers, ("question_id", ("answer", "text"))))
    _report(result.left_out, "questions and answers")
    if not result.items:
        raise InputError(f"no question has an answer in {answers}: {result.left_out[0]['reason']}")
    return _figures(measure(result.items))


def format_table(result: Mapping[str, Mapping[str, float]]) -> str:
    """The figures as a table for people; shares in percent, words and scores beyond 1 as they are."""
    lines = [f"{'':<28}{'value':>8}   95 % interval         n"]
    for name, entry in result.items():
        unit = 1 if name == "words" or name in SCORES else 100
        value, low, high = (unit * entry[key] for key in ("value", "low", "high"))
        lines.append(f"{name:<28}{value:>8.2f}   {f'{low:.2f} - {high:.2f}':<17}{entry['n']:>6.0f}")
    return "\n".join(lines)


def _figures(intervals: Mapping[str, Interval]) -> Result:
    return {name: interval.as_dict() for name, interval in intervals.items()}


def _report(left_out: Sequence[Mapping[str, str]], kind: str) -> None:
    if left_out:
        shown = "; ".join(f"{item['prompt_id']}: {item['reason']}" for item in left_out[:5])
        log.warning("%d %s left out. %s%s", len(left_out), kind, shown, " ..." if len(left_out) > 5 else "")
