"""What a reward model is tried on: the drawn world, or pictures with COCO annotations; and the trial itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from csr_core.config import Settings
from csr_core.errors import CsrError, InputError
from csr_core.evaluation.sources import Annotated, Annotations, Box, read_annotations
from csr_core.images import find_image, open_image
from csr_core.prompts import MINIATURE
from csr_core.reward.claims import Claim, claims
from csr_core.reward.trial import BARS, Trial, accuracies, objections, trial_items

if TYPE_CHECKING:
    from PIL.Image import Image

    from csr_core.reward.scorer import SentenceScorer

SCENES, PICTURES = 300, 500  # tried by `csr reward check`
SHORT = {"drawn": 200, "photographs": 100}  # by `csr check` and before a run
TOGETHER = 64  # pictures held at a time

NO_ANNOTATIONS = (
    "no annotations to make true and false sentences from: expected an instances.json in COCO's format beside the "
    "pictures of data.images, beside data.prompts, or in a folder of evaluate.splits; or give one with "
    "csr reward check --instances FILE --images DIR (some hundred annotated pictures like those of the run)"
)


@dataclass(frozen=True)
class TrialData:
    """Annotated pictures to try a model on; `more`: pairs beside those that the annotations give."""

    what: str
    style: str  # of the sentences and of the bar: drawn | photographs
    annotations: Annotations
    pictures: list[Annotated]
    open: Callable[[str], Image]  # by the file's name
    more: tuple[Claim, ...] = ()


def drawn_data(count: int, seed: int = 0) -> TrialData:
    """Validation scenes of the miniature world, which nothing is trained on, with sentences about their places too."""
    from csr_core.miniature import world
    from csr_core.miniature.dataset import file_name
    from csr_core.miniature.draw import draw

    scenes = {file_name(scene): scene for scene in world.sample_split("validation", count, seed)}
    pictures = [
        Annotated(name, tuple(Box(o.name, (o.x, o.y, o.size, o.size)) for o in scene.objects))
        for name, scene in scenes.items()
    ]
    places = [
        Claim(name, world.place_sentence(scene.place), world.place_sentence(other), "place")
        for name, scene in scenes.items()
        for other in world.SCENES
        if other != scene.place
    ]
    annotations = Annotations(pictures, world.OBJECTS, world.COMPANIONS)
    return TrialData(
        f"{count} drawn scenes", "drawn", annotations, pictures, lambda name: draw(scenes[name]), tuple(places)
    )


def annotated_data(instances: Path, images: Path | None, count: int, max_pixels: int, seed: int = 0) -> TrialData:
    """`count` of the annotated pictures that are there, drawn at random.

    `images`: their folder; None: `images/` beside the file, or the file's own folder. A file whose `info` names
    companions is one of the miniature's, and gets its sentences.

    Raises:
        InputError: not an instances file, or none of its pictures with annotations is there.
    """
    annotations = read_annotations(instances)
    beside = instances.parent / "images"
    folder = images or (beside if beside.is_dir() else instances.parent)
    here = [one for one in annotations.pictures if one.boxes and find_image(folder, one.file).is_file()]
    if not here:
        named = annotations.pictures[0].file if annotations.pictures else "none at all"
        raise InputError(
            f"none of the annotated pictures of {instances} is in {folder}; it names {named}: give their folder "
            "with --images"
        )
    chosen = np.random.default_rng(seed).permutation(len(here))[:count]
    pictures = [here[number] for number in sorted(chosen)]
    return TrialData(
        f"{len(pictures)} pictures of {instances}",
        "drawn" if annotations.companions else "photographs",
        annotations,
        pictures,
        lambda name: open_image(find_image(folder, name), max_pixels),
    )


def instances_of(settings: Settings, splits: bool = True) -> tuple[Path, Path | None] | None:
    """(annotations, folder of their pictures) that the settings lead to; None where there are none.

    `splits`: look also where the held-out pictures are, after those of the prompts.
    """
    data = settings.data
    prompts = Path(data.prompts)
    folders = [Path(data.images)] if data.images else []
    folders += [prompts if prompts.is_dir() else prompts.parent] if prompts.exists() else []
    held_out = [split.folder for split in settings.evaluate.splits.values()] if splits else []
    folders += [Path(folder) for folder in held_out if not folder.startswith(f"{MINIATURE}:")]
    for folder in folders:
        for file in (folder / "instances.json", folder.parent / "instances.json"):
            if file.is_file():
                return file, folder if folder != file.parent else None
    return None


def find_data(settings: Settings, count: int | None = None, short: bool = False) -> TrialData | None:
    """What the settings lead to: the drawn world where the prompts are, else annotated pictures; None without any."""
    if settings.data.prompts == MINIATURE:
        return drawn_data(count or (SHORT["drawn"] if short else SCENES))
    found = instances_of(settings)
    if found is None:
        return None
    return annotated_data(*found, count or (SHORT["photographs"] if short else PICTURES), settings.data.max_pixels)


def try_model(settings: Settings, data: TrialData, scorer: SentenceScorer | None = None) -> Trial:
    """Put the reward model of the settings on trial.

    Raises:
        InputError: the model cannot be loaded, or not one pair can be made: no picture can be read, or each shows all
            of the categories or none.
    """
    from csr_core.reward.scorer import SentenceScorer

    scorer = scorer or SentenceScorer(settings.reward)
    made = [*claims(data.annotations, data.style, data.pictures), *data.more]
    used, values, left_out = _relevances(scorer, data, made)
    if not used:
        reason = left_out[0]["reason"] if left_out else "no picture has something there and something absent"
        raise InputError(f"no pair of a true and a false sentence could be tried on {data.what}: {reason}")
    figures = accuracies(trial_items(used, values))
    return Trial(
        data.what,
        ", ".join(settings.reward.models),
        figures,
        tuple(objections(figures, BARS[data.style])),
        tuple(left_out),
    )


def _relevances(
    scorer: SentenceScorer, data: TrialData, made: Sequence[Claim]
) -> tuple[list[Claim], list[tuple[float, float]], list[dict[str, str]]]:
    """The claims about pictures that can be read, R_I of their two sentences, and the pictures that cannot."""
    about: dict[str, list[Claim]] = {}
    for claim in made:
        about.setdefault(claim.image, []).append(claim)
    used: list[Claim] = []
    values: list[tuple[float, float]] = []
    left_out = []
    names = list(about)
    for start in range(0, len(names), TOGETHER):
        now = []
        for name in names[start : start + TOGETHER]:
            try:
                scorer.add_image(name, data.open(name))
                now += about[name]
            except CsrError as error:
                left_out.append({"prompt_id": name, "reason": str(error)})
        if now:
            found = scorer.relevances([(one.image, text) for one in now for text in (one.true, one.false)])
            used += now
            values += zip(found[::2], found[1::2], strict=True)
    return used, values, left_out
