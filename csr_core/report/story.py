"""What a run's page tells, as plain values: changes with intervals and p, guards, pairs, costs, settings, digests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from csr_core.config import Settings
from csr_core.errors import SettingsError
from csr_core.evaluation.hypotheses import LOWER_IS_BETTER, is_descriptive
from csr_core.evaluation.measured import measured_elsewhere
from csr_core.layout import Layout
from csr_core.params import flatten, load_settings
from csr_core.prompts import MINIATURE
from csr_core.records import read_json
from csr_core.report.figures import ALPHA, COLUMNS, cell, conclusion, heading, p_cell, scale
from csr_core.report.sample import find_path
from csr_core.stages import STAGES
from csr_core.stages.guard import stopped

CARDS = ("chair_i", "recall", "pope_accuracy", "accuracy", "words")  # the first four that were measured head the page

SPLIT_FOLDER = re.compile(r"evaluate\.splits\.([^.]+)\.folder")
DRAWN = "drawn scenes of the miniature's world"

Metrics = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Line:
    """A figure over the iterations; `change` is the last one's paired difference to the base."""

    name: str
    heading: str
    values: list[str]
    change: str
    p: str
    verdict: str  # better, worse, no clear change, or empty: nothing is claimed from this figure


def lines(runs: Sequence[Metrics], split: str) -> tuple[list[Line], list[Line]]:
    """(the main figures of a split, all others)."""
    found = dict.fromkeys(name for metrics in runs for name in metrics.get(split, {}))
    main = [name for name in COLUMNS if name in found]
    rest = sorted(name for name in found if name not in COLUMNS)
    return [_line(runs, split, name) for name in main], [_line(runs, split, name) for name in rest]


def _line(runs: Sequence[Metrics], split: str, name: str) -> Line:
    entries = [metrics.get(split, {}).get(name) for metrics in runs]
    factor, decimals = scale(name, [entry["value"] for entry in entries if entry])
    versus = (entries[-1] or {}).get("vs_base") or {}
    change = cell(versus, factor, decimals, "difference", "+") if versus else "-"
    p = versus.get("p_holm", versus.get("p"))
    return Line(
        name,
        heading(name, factor),
        [cell(entry, factor, decimals) for entry in entries],
        change,
        p_cell(None if is_descriptive(name) else p),
        verdict(name, versus.get("difference"), p),
    )


def verdict(name: str, difference: float | None, p: float | None) -> str:
    """What may be said of a difference: better, worse, no clear change; empty where nothing is claimed from `name`."""
    if difference is None or p is None or is_descriptive(name):
        return ""
    if p >= ALPHA or difference == 0:
        return "no clear change"
    return "better" if (difference < 0) == (name in LOWER_IS_BETTER) else "worse"


def cards(runs: Sequence[Metrics]) -> list[dict[str, str]]:
    """The main figures of the first split: what they were, what they are, and whether that is better."""
    split = next(iter(runs[0]))
    found = []
    for name in CARDS:
        ends = [metrics.get(split, {}).get(name) for metrics in (runs[0], runs[-1])]
        if all(end and end["value"] is not None for end in ends):
            line = _line([runs[0], runs[-1]], split, name)
            found.append(
                {
                    "heading": line.heading,
                    "before": line.values[0].split()[0],
                    "after": line.values[1].split()[0],
                    "change": line.change,
                    "verdict": line.verdict,
                }
            )
    return found[:4]


def sentences(runs: Sequence[Metrics]) -> list[tuple[str, str]]:
    """(split, what changed on it, in words): from CHAIR where there is one, else from all figures that changed."""
    found = []
    for split in runs[0]:
        told = conclusion(runs, split)
        if not told and len(runs) > 1:
            main, _ = lines(runs, split)
            claimed = [line for line in main if line.verdict]
            parts = [
                f"{line.heading} {line.values[0].split()[0]} -> {line.values[-1].split()[0]} "
                f"({line.verdict}, p {'' if line.p.startswith('<') else '= '}{line.p})"
                for line in claimed
            ]
            told = "; ".join(parts) + "." if parts else ""
        if told:
            found.append((split, told))
    return found


def guards(layout: Layout, last: int) -> list[dict[str, Any]]:
    """Of each iteration: {iteration, stopped, fired: sentences, quiet: [(guard, sentence)], unmeasured}."""
    found = []
    for k in range(1, last + 1):
        if layout.guards(k).is_file():
            read = read_json(layout.guards(k))
            looked = [(one["guard"], one["sentence"]) for one in read if not one["fired"] and one["value"] is not None]
            found.append(
                {
                    "iteration": k,
                    "stopped": stopped(k, layout),
                    "fired": [(one["guard"], one["sentence"]) for one in read if one["fired"]],
                    "quiet": looked,
                    "unmeasured": [(one["guard"], one["sentence"]) for one in read if one["value"] is None],
                }
            )
    return found


def pairs(layout: Layout, last: int) -> list[dict[str, Any]]:
    """Of each iteration: how many pairs of how many prompts, why others gave none, what they are like, which served."""
    found = []
    for k in range(1, last + 1):
        file = layout.preferences(k) / "summary.json"
        if file.is_file():
            summary = read_json(file)
            diversity = summary.get("diversity", {})
            trained = layout.model(k) / "summary.json"
            found.append(
                {
                    "iteration": k,
                    "prompts": summary["prompts"],
                    "pairs": summary["pairs"],
                    "trained": read_json(trained) if trained.is_file() else None,
                    "left_out": dict(sorted(summary["left_out_by_reason"].items(), key=lambda item: -item[1])),
                    "words": diversity.get("words"),
                    "sentences": diversity.get("sentences"),
                    "margin": diversity.get("margin"),
                }
            )
    return found


def stamps(layout: Layout, last: int) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(iteration, stage, stamp) of every finished stage that left one, in the order of the method."""
    for k in range(last + 1):
        for stage in STAGES:
            file = layout.state / "stamps" / f"{stage}@{k}.json"
            if file.is_file():
                yield k, stage, read_json(file)


def noted(layout: Layout, last: int) -> dict[str, Any]:
    """section.key -> value, as the stages of the last iteration noted it when they ran: all that decides results."""
    found: dict[str, Any] = {}
    for k, stage, stamp in stamps(layout, last):
        for name, value in flatten(stamp.get("settings", {})).items():
            full = _full_name(stage, k, name)
            if full.split(".")[0] in Settings.model_fields:
                found[full] = value
    found.pop("data.iteration", None)
    return found


def settings_in_force(layout: Layout, last: int) -> tuple[dict[str, Any], str]:
    """(section.key -> value, where this is from).

    What the stages of the last iteration ran with, as they noted it; where that is gone, the settings file.
    """
    if found := noted(layout, last):
        return found, "as the stages noted them when they ran"
    try:
        return flatten(load_settings(layout.root / "params.yaml")), "of params.yaml as it is now"
    except SettingsError:
        return {}, "not known: neither the stages' notes (.csr/) nor params.yaml are here"


def _full_name(stage: str, k: int, name: str) -> str:
    """section.key of what a stage noted: of an iteration's `prepare` these are the keys of `data`."""
    return f"data.{name}" if stage == "prepare" and k > 0 and name != "seed" else name


def untried(layout: Layout, last: int) -> str:
    """That a setting let the reward model through without its trial, as the stage `score` noted; else nothing."""
    return next((stamp["untried"] for _, _, stamp in stamps(layout, last) if "untried" in stamp), "")


def mixed(layout: Layout, last: int) -> str:
    """That not all is of one run, where stages of one kind noted different settings; else nothing.

    So it is after a shorter run over the files of a longer one: the later iterations are the older ones.
    """
    noted: dict[tuple[str, str], dict[int, Any]] = {}
    for k, stage, stamp in stamps(layout, last):
        for name, value in flatten(stamp.get("settings", {})).items():
            if name != "iteration":
                noted.setdefault((stage, _full_name(stage, k, name)), {})[k] = value
    changes = {
        (after, name)
        for (_, name), values in noted.items()
        for before, after in pairwise(sorted(values))
        if values[before] != values[after]
    }
    if not changes:
        return ""
    first = min(k for k, _ in changes)
    names = ", ".join(sorted({name for k, name in changes if k == first}))
    shorter = f"`csr report --iterations {first - 1}` leaves them out, " if first > 1 else ""
    return (
        f"Not all of this is of one run: the files of iteration {first} and later were made with another {names}. "
        f"{shorter}`csr run` with the settings wanted makes them anew"
    )


def split_words(settings: Mapping[str, Any]) -> dict[str, str]:
    """What each held-out split is."""
    drawn = {
        "miniature:test": DRAWN,
        "miniature:shifted": f"{DRAWN} in which the usual companions of things are absent",
    }
    return {name: drawn.get(folder, f"pictures of {folder}") for name, folder in _named_folders(settings).items()}


def _named_folders(settings: Mapping[str, Any]) -> dict[str, str]:
    """Split -> its folder as the settings name it."""
    return {found[1]: str(value) for name, value in settings.items() if (found := SPLIT_FOLDER.fullmatch(name))}


def elsewhere(settings: Mapping[str, Any]) -> str:
    """That the figures are of other pictures than the user's own, where that is so."""
    told = measured_elsewhere(str(settings.get("data.prompts", MINIATURE)), _named_folders(settings).values())
    return told[:1].upper() + told[1:]


def warnings(layout: Layout, last: int, settings: Mapping[str, Any]) -> list[str]:
    """What has to be known before any figure is read."""
    return [told for told in (elsewhere(settings), untried(layout, last), mixed(layout, last)) if told]


def reward_words(settings: Mapping[str, Any]) -> list[str]:
    """How a sentence's reward, an answer's score and a pair's margin are made, a paragraph each."""
    weight = settings.get("reward.image_weight")
    if weight is None:
        return []
    form = str(settings.get("reward.likelihood", "probability")).replace("_", " ")
    seen = "R_I = 100 cos(picture, sentence) by the reward model" + (
        ", at least 0" if settings.get("reward.relevance_floor") else ""
    )
    if settings.get("reward.combine") == "rank":
        return [
            f"A sentence's reward is {weight:g} times its rank by R_I and {1 - weight:.3g} times that by R_T among its "
            f"siblings, with the sign turned: the best of n has rank 1/n, so a higher reward is better. {seen}."
        ]
    scale = (
        "brought to the scale of R_I among the picture's candidates"
        if settings.get("reward.likelihood_scale") == "standardised"
        else "as it is: between 0 and 1 for a probability, so beside R_I it hardly counts"
    )
    told = [
        f"A sentence's reward is R = {weight:g} R_I + {1 - weight:.3g} R_T. Relevance {seen}. Likelihood R_T is the "
        f"sentence's {form} under the model, {scale}."
    ]
    if settings.get("reward.repeats_earn_nothing"):
        told[0] += " What was said before in the same answer earns 0."
    rules = {
        "sum": "the sum of its sentences' rewards",
        "mean": "the mean of its sentences' rewards",
        "threshold_sum": "the sum of its sentences' rewards, each less "
        f"{settings.get('pair.threshold', 0):g} times the best reward of the picture: a sentence below that bar costs",
        "centred_sum": "the sum of its sentences' rewards, each less the mean of the picture's candidates",
    }
    if rule := rules.get(str(settings.get("pair.path_score"))):
        told.append(f"An answer's score is {rule}. The margin of a pair is the difference of its two scores.")
    return told


def split_folders(layout: Layout, settings: Mapping[str, Any]) -> dict[str, Path]:
    """Where the held-out splits lie, by the settings in force; those of the drawn world below the run's folder."""
    return {
        name: layout.splits / name if folder.startswith("miniature:") else find_path(folder, layout)
        for name, folder in _named_folders(settings).items()
    }


def digests(layout: Layout, last: int) -> list[tuple[str, str]]:
    """(output, SHA-256 of its content) of every finished stage."""
    return [(path, digest) for _, _, stamp in stamps(layout, last) for path, digest in sorted(stamp["outputs"].items())]
