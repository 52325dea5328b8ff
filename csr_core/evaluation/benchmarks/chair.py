"""CHAIR (Rohrbach et al. 2018, arXiv 1809.02156) as a benchmark whose pictures, prompt, cap and reading are stated.

CHAIR has no official list of pictures, prompt or cap on the answer's length, and its figures follow each of them: so
they are in `chair.json` beside the pictures, {ids, prompt, max_new_tokens, parser}, with the defaults below. Recall and
length stand beside the rates, since saying less lowers them too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from csr_core.errors import InputError
from csr_core.evaluation.benchmarks.common import Question, Reading, file_of
from csr_core.evaluation.chair import CaptionScore, fold_references, image_key
from csr_core.evaluation.objects import object_parser, reads_as_published
from csr_core.evaluation.sources import read_instances, read_references
from csr_core.evaluation.statistics import Item
from csr_core.images import find_image

PROMPT, MAX_NEW_TOKENS = "Describe this image in detail.", 512
PARSERS = ("published", "corrected")  # see `csr_core.evaluation.objects`

TITLE = "CHAIR: hallucinated objects"
SOURCE = "https://cocodataset.org/#download"
FILES = {
    "instances*.json": "instances_val2014.json of 2014 Train/Val annotations, there",
    "images": "COCO's val2014 pictures, there",
}


def read(folder: Path) -> Reading:
    """COCO's `instances*.json`, `images/`; `captions*.json` (reference captions) and `chair.json` where there are such.

    Raises:
        InputError: a file is not what it should be, or `chair.json` names something else than stated above.
    """
    found = read_instances(file_of(folder, "instances*.json"))
    stated = _stated(folder / "chair.json")
    published = stated["parser"] == "published" if "parser" in stated else reads_as_published(found.categories)
    truth: Mapping[int | str, set[str]] = found.truth
    if references := sorted(folder.glob("captions*.json")):
        truth = fold_references(truth, read_references(references[0]), object_parser(published))
    names = {image: name for name, image in found.image_of_file.items()}
    prompt, cap = str(stated.get("prompt", PROMPT)), int(stated.get("max_new_tokens", MAX_NEW_TOKENS))
    reading = Reading(
        stated={"prompt": prompt, "max_new_tokens": cap, "parser": PARSERS[not published], "ids": "ids" in stated}
    )
    reading.stated["reference_captions"] = bool(references)
    for image in [image_key(one) for one in stated.get("ids", names)]:
        if image not in names:
            reading.drop(image, f"the instances file has no picture {image}, or no file_name of it")
            continue
        facts = {"image": image, "truth": sorted(truth[image]), "published": published}
        path = find_image(folder / "images", names[image])
        reading.questions.append(Question(str(image), str(image), path, prompt, cap, facts))
    return reading


def _stated(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    stated = json.loads(file.read_text("utf-8"))
    unknown = set(stated) - {"ids", "prompt", "max_new_tokens", "parser"}
    if unknown or stated.get("parser", "published") not in PARSERS:
        raise InputError(
            f"{file}: expected ids (a list), prompt, max_new_tokens and parser ({' or '.join(PARSERS)}); got "
            f"{sorted(unknown) or stated['parser']!r}"
        )
    return dict(stated)


def score(questions: Sequence[Question], answers: Mapping[str, str]) -> list[Item]:
    """An item an answer: `chair_i`, `chair_s`, `recall`, `words`; `unparsed` where nothing was said."""
    items = []
    for question in questions:
        if question.key in answers:
            facts, text = question.facts, answers[question.key]
            mentions = tuple(object_parser(facts["published"]).mentions(text))
            item = CaptionScore((facts["image"], 0), text, mentions, frozenset(facts["truth"])).item()
            items.append(Item(item.key, item.image, item.counts | {"unparsed": (float(not text.strip()), 1.0)}))
    return items
