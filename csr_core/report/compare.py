"""Two finished runs beside each other: figures of their last good models, paired by picture, and their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from csr_core.errors import InputError
from csr_core.evaluation.counts import Items, read_counts
from csr_core.evaluation.hypotheses import is_descriptive
from csr_core.evaluation.resampling import holm
from csr_core.evaluation.statistics import paired_difference
from csr_core.layout import Layout
from csr_core.report.figures import COLUMNS, cell, heading, p_cell, scale
from csr_core.report.story import verdict
from csr_core.stages.guard import last_good, stopped

Metrics = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Contrast:
    """A figure of the last good model of two runs; `change` is this run's less the other's, on the same pictures."""

    split: str
    heading: str
    own: str
    other: str
    change: str
    p: str
    verdict: str


def last_good_model(layout: Layout, runs: Sequence[Metrics]) -> int:
    """The newest iteration that no guard stopped; 0 is the base."""
    last = len(runs) - 1
    return last_good(last, layout) if stopped(last, layout) else last


def compare_runs(
    layout: Layout, runs: Sequence[Metrics], other: Layout, theirs: Sequence[Metrics], resamples: int = 1000
) -> tuple[list[Contrast], str]:
    """(contrasts of the figures that both have, why there are none). p with Holm's correction over all of them.

    The models are the last ones that no guard stopped.
    """
    own_k, their_k = last_good_model(layout, runs), last_good_model(other, theirs)
    try:
        mine = read_counts(layout.answers(own_k))
        others = read_counts(other.answers(their_k))
    except InputError as error:
        return [], str(error)
    found = []
    for split in runs[own_k]:
        for name in (name for name in COLUMNS if name in runs[own_k][split]):
            difference = _difference(mine, others, split, name, resamples)
            if difference is not None and name in theirs[their_k].get(split, {}):
                found.append((split, name, difference))
    claimed = [difference["p"] for _, name, difference in found if not is_descriptive(name)]
    corrected = iter(holm(claimed))
    contrasts = []
    for split, name, difference in found:
        ends = [runs[own_k][split][name], theirs[their_k][split][name]]
        factor, decimals = scale(name, [end["value"] for end in ends])
        p = None if is_descriptive(name) else next(corrected)
        own, there = (cell(end, factor, decimals) for end in ends)
        contrasts.append(
            Contrast(
                split,
                heading(name, factor),
                own,
                there,
                cell(difference, factor, decimals, "difference", "+"),
                p_cell(p),
                verdict(name, difference["difference"], p),
            )
        )
    return contrasts, "" if contrasts else "they were not measured on the same pictures"


def _difference(mine: Items, others: Items, split: str, name: str, resamples: int) -> dict[str, Any] | None:
    found = paired_difference(mine.get(split, []), others.get(split, []), name, resamples)
    return None if found is None else found.as_dict()


def differing(own: Mapping[str, Any], other: Mapping[str, Any], alike: bool = True) -> list[tuple[str, Any, Any]]:
    """(setting, its value here, its value there) of those that differ; one that a run does not have is None.

    `alike`: both are known from the same kind of source; otherwise only settings that both have are compared.
    """
    names = [name for name in dict.fromkeys([*own, *other]) if alike or (name in own and name in other)]
    return [(name, own.get(name), other.get(name)) for name in names if own.get(name) != other.get(name)]
