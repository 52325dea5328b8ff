"""One HTML file that tells a run's story and shows its sentence trees. It needs no network and asks for none."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from csr_core.config import DataSettings
from csr_core.layout import Layout
from csr_core.records import PREFERENCES, read_table, write_text
from csr_core.report import story
from csr_core.report.answers import compared_answers
from csr_core.report.compare import compare_runs, differing, last_good_model
from csr_core.report.curves import plot_answers, plot_metrics, plot_sentences
from csr_core.report.figures import conclusion, load_metrics, stop
from csr_core.report.trees import TREES, Pictures, sampled_trees, sentence_rewards
from csr_core.stages.costs import stage_costs

Runs = Sequence[Mapping[str, Any]]

SCRIPTS = ("helpers.js", "tree.js", "page.js")  # joined to one, in this order


def write_report(
    layout: Layout,
    out: Path,
    iterations: int | None = None,
    others: Mapping[str, Layout] | None = None,
    trees: int = TREES,
) -> None:
    """Write the page of the run at `layout` to `out`, whole or not at all.

    `others`: runs to compare with, by the name to show. `trees`: at most so many sentence trees of an iteration; of
    more prompts they are a sample, and the page says so.

    Raises:
        InputError: the run, or one to compare with, has no metrics.
    """
    write_text(out, render_report(layout, iterations, others or {}, trees))


def render_report(layout: Layout, iterations: int | None, others: Mapping[str, Layout], limit: int) -> str:
    """The page as text; see `write_report`."""
    from matplotlib import colormaps

    runs = load_metrics(layout, iterations)
    last = len(runs) - 1
    settings, origin = story.settings_in_force(layout, last)
    pictures = Pictures(layout, int(settings.get("data.max_pixels", DataSettings().max_pixels)))
    trees = sampled_trees(layout, range(1, last + 1), pictures, settings, limit)
    folders = story.split_folders(layout, settings)
    folders = {split: folders[split] for split in runs[0] if split in folders}
    answers = compared_answers(layout, last, folders, pictures) if last else []
    trees |= {"pictures": pictures.uris, "colours": [colormaps["cividis"](place / 20)[:3] for place in range(21)]}
    context = {
        "title": _title(settings, last),
        "conclusion": conclusion(runs),
        "stop": stop(layout, last),
        "warnings": story.warnings(layout, last, settings),
        "sentences": story.sentences(runs),
        "cards": story.cards(runs) if last else [],
        "models": ["base", *(f"iteration {k}" for k in range(1, last + 1))],
        "tables": {split: story.lines(runs, split) for split in runs[0]},
        "of": story.split_words(settings),
        "sizes": {split: max(int(entry["n"]) for entry in runs[0][split].values()) for split in runs[0]},
        "curves": {split: _svg(plot_metrics({"this run": runs}, split, "svg")) for split in _with_curves(runs)},
        "guards": story.guards(layout, last),
        "rewards": _rewards(layout, last),
        "pairs": story.pairs(layout, last),
        "answers": answers,
        "costs": _costs(layout, last),
        "settings": sorted(settings.items()),
        "origin": origin,
        "digests": story.digests(layout, last),
        "comparisons": [_comparison(name, layout, runs, settings, origin, other) for name, other in others.items()],
        "reward_words": story.reward_words(settings),
        "tree_words": _tree_words(trees["iterations"]),
        "pictures": pictures.uris,
    }  # fmt: skip
    return _filled(context, trees)


def _title(settings: Mapping[str, Any], last: int) -> str:
    path = str(settings.get("model.path", ""))
    model = "The miniature" if path == "miniature" else Path(path).name if path else "A model"
    return f"{model}, {last} iteration{'' if last == 1 else 's'}"


def _tree_words(iterations: Sequence[Mapping[str, Any]]) -> str:
    """How many of all trees the page holds, and how they were picked; empty where it holds none."""
    counts = [(one["iteration"], len(one["trees"]), one["prompts"]) for one in iterations]
    parts = [f"{shown} of the {total:,} prompts of iteration {k}" for k, shown, total in counts]
    if len({(shown, total) for _, shown, total in counts}) == 1 and len(counts) > 1:
        parts = [f"{counts[0][1]} of the {counts[0][2]:,} prompts of each iteration"]
    told = f"The page holds the trees of {', '.join(parts)}." if parts else ""
    if any(shown < total for _, shown, total in counts):
        told += " They are a sample: those with a pair are spread evenly over the margins, every fourth gave no pair."
    if any(one["annotated"] for one in iterations):
        told += " Objects that are not in the picture, by its annotations, are underlined; no model knew these."
    return told


def _with_curves(runs: Runs) -> list[str]:
    return [split for split in runs[0] if "chair_i" in runs[0][split] or "pope_accuracy" in runs[0][split]]


def _rewards(layout: Layout, last: int) -> dict[str, str]:
    """Drawings of how rewards are spread; none of iterations whose pairs came without rewards."""
    drawings = {}
    scored: dict[str, list[dict[str, Any]]] = {}
    for k in range(1, last + 1):
        if layout.preferences(k).is_dir():
            rows = [row for row in read_table(layout.preferences(k), PREFERENCES) if row["margin"] is not None]
            scored |= {f"iteration {k}": rows} if rows else {}
    if scored:
        drawings["answers"] = _svg(plot_answers(scored, "svg"))
    rewards = {f"iteration {k}": sentence_rewards(layout.scores(k)) for k in range(1, last + 1)}
    if found := {name: values for name, values in rewards.items() if len(values)}:
        drawings["sentences"] = _svg(plot_sentences(found, "svg"))
    return drawings


def _costs(layout: Layout, last: int) -> list[dict[str, Any]]:
    return [cost | {"seconds": cost["seconds"] or 0.0} for cost in stage_costs(layout) if cost["iteration"] <= last]


def _comparison(
    name: str, layout: Layout, runs: Runs, settings: Mapping[str, Any], origin: str, other: Layout
) -> dict[str, Any]:
    theirs = load_metrics(other)
    their_settings, their_origin = story.settings_in_force(other, len(theirs) - 1)
    contrasts, why_not = compare_runs(layout, runs, other, theirs)
    split = next((split for split in _with_curves(runs) if split in theirs[0]), None)
    return {
        "name": name,
        "own_model": _model(last_good_model(layout, runs)),
        "model": _model(last_good_model(other, theirs)),
        "conclusion": conclusion(theirs),
        "contrasts": contrasts,
        "why_not": why_not,
        "settings": differing(settings, their_settings, origin == their_origin),
        "stop": stop(other, len(theirs) - 1),
        "curves": _svg(plot_metrics({"this run": runs, name: theirs}, split, "svg")) if split else "",
    }


def _model(k: int) -> str:
    return f"iteration {k}" if k else "the base"


def _svg(drawing: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(drawing).decode()


def _filled(context: Mapping[str, Any], trees: Mapping[str, Any]) -> str:
    """The template with its values; all text is escaped. The policy lets no page element ask for anything."""
    from jinja2 import Environment

    assets = resources.files("csr_core.report").joinpath("assets")
    style, template = (assets.joinpath(name).read_text("utf-8") for name in ("page.css", "page.html"))
    parts = [assets.joinpath(name).read_text("utf-8") for name in SCRIPTS]
    script = '"use strict";\n{\n' + "\n".join(parts) + "}\n"
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(trees, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":  # so that no text can end the script element that holds it
        data = data.replace(sign, f"\\u{ord(sign):04x}")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        **context, style=style, script=script, script_digest=digest, tree_data=data
    )
