"""Some sentence trees of each iteration, as the page's viewer reads them.

Of many prompts a few are shown: three of four have a pair and are spread over all margins; the others gave no pair and
are spread over the reasons. Tables are read by column, and rows of those prompts alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from csr_core.errors import InputError
from csr_core.evaluation.objects import ObjectParser, object_parser, reads_as_published
from csr_core.evaluation.sources import read_instances
from csr_core.layout import Layout
from csr_core.records import PREFERENCES, PROMPTS, pictures_of, read_json, read_table
from csr_core.report.sample import data_uri, find_path, spread_order
from csr_core.reward.calibration import is_repeat

TREES = 60  # at most so many of an iteration
BYTES = 3_300_000  # of all trees of the page with their pictures
PICTURES = 4  # of a prompt that has several
WITHOUT_PAIR = 4  # every so many-th tree is of a prompt that gave no pair

# Of a sentence, in this order; shorter than names repeated a thousand times.
NODE = (
    "parent", "text", "status", "reward", "likelihood", "relevance", "log_likelihood", "tokens", "dropped", "wrong",
    "repeat",
)  # fmt: skip
_COLUMNS = (
    "prompt_id", "node", "parent", "text", "token_ids", "log_likelihood", "is_final", "expanded",
    "relevance", "likelihood", "reward", "dropped",
)  # fmt: skip

Row = dict[str, Any]


@dataclass
class Pictures:
    """The pictures of the page, each once; `add` gives a picture's place among them, None where it is gone."""

    layout: Layout
    max_pixels: int
    uris: list[str] = field(default_factory=list)
    _places: dict[str, int | None] = field(default_factory=dict)

    def add(self, path: str, name: str | None = None) -> int | None:
        """`path`: as the run's files name it; `name`: of its content, where that is known."""
        name = name or path
        if name not in self._places:
            uri = data_uri(find_path(path, self.layout), self.max_pixels)
            self._places[name] = None if uri is None else len(self.uris)
            self.uris += [] if uri is None else [uri]
        return self._places[name]

    @property
    def size(self) -> int:
        """Bytes of the page that they take."""
        return sum(map(len, self.uris))


@dataclass(frozen=True)
class _Truth:
    """What is annotated in the pictures of an iteration: marks what a sentence names and is not there."""

    parser: ObjectParser
    by_file: dict[str, set[str]]

    def wrong(self, picture: str, text: str) -> list[list[int]]:
        there = self.by_file.get(Path(picture).name)
        if there is None:
            return []
        return [[start, end] for start, end, name in self.parser.spans(text) if name not in there]


def sampled_trees(
    layout: Layout,
    iterations: Sequence[int],
    pictures: Pictures,
    settings: Mapping[str, Any] | None = None,
    limit: int = TREES,
) -> dict[str, Any]:
    """{node: names of a sentence's fields, iterations: [{iteration, prompts, scales, trees}]}.

    `settings`: section.key -> value, as far as they are known. Iterations whose pairs were imported have no trees and
    are left out.
    """
    shown = [k for k in iterations if layout.scores(k).is_dir() and layout.prompts(k).is_dir()]
    found = [_iteration(layout, k, pictures, settings or {}, limit, BYTES // len(shown)) for k in shown]
    return {"node": NODE, "iterations": found}


def _iteration(
    layout: Layout, k: int, pictures: Pictures, settings: Mapping[str, Any], limit: int, room: int
) -> dict[str, Any]:
    prompts = {row["prompt_id"]: row for row in read_table(layout.prompts(k), PROMPTS)}
    pairs, reasons = _pairs(layout, k)
    order = [name for name in _order(pairs, reasons) if name in prompts][:limit]
    rows = _rows(layout.scores(k), order)
    truth, before = _truth(layout, k, settings), pictures.size
    trees: list[Row] = []
    used = 0
    for name in order:
        if name in rows:
            tree = _tree(prompts[name], rows[name], pairs.get(name), reasons.get(name), pictures, truth)
            tree |= _account(rows[name], settings)
            if settings.get("reward.repeats_earn_nothing") and settings.get("reward.combine") != "rank":
                _mark_repeats(tree["nodes"])
            used += sum(80 + len(node[1]) for node in tree["nodes"]) + 200
            if trees and used + pictures.size - before > room:
                break
            trees.append(tree)
    # A scale for all trees, so that a colour means the same in each.
    return {
        "iteration": k,
        "prompts": len(prompts),
        "pairs": len(pairs),
        "annotated": truth is not None,
        "scales": {name: _scale(trees, name) for name in ("reward", "likelihood", "relevance")},
        "trees": trees,
    }


def _pairs(layout: Layout, k: int) -> tuple[dict[str, Row], dict[str, str]]:
    """(pairs by prompt, reasons of the prompts that gave none)."""
    folder = layout.preferences(k)
    if not folder.is_dir():
        return {}, {}
    left_out = read_json(folder / "summary.json")["left_out"]
    return {row["prompt_id"]: row for row in read_table(folder, PREFERENCES)}, {
        item["prompt_id"]: item["reason"] for item in left_out
    }


def _order(pairs: Mapping[str, Row], reasons: Mapping[str, str]) -> Iterator[str]:
    """All prompts, those to be shown first."""
    with_pair = spread_order(sorted(pairs, key=lambda name: (-(pairs[name]["margin"] or 0.0), name)))
    groups: dict[str, list[str]] = {}
    for name in sorted(reasons):
        groups.setdefault(reasons[name], []).append(name)
    without = [name for turn in zip_longest(*groups.values()) for name in turn if name is not None]
    while with_pair or without:
        several = WITHOUT_PAIR - 1 if without else len(with_pair)
        yield from with_pair[:several]
        yield from without[: 1 if with_pair else None]
        with_pair, without = with_pair[several:], without[1 if with_pair else len(without) :]


def _rows(folder: Path, names: Sequence[str]) -> dict[str, list[Row]]:
    """The nodes of the prompts `names`, by node id."""
    found: dict[str, list[Row]] = {}
    for file in sorted(folder.glob("*.parquet")):
        table = pq.read_table(file, columns=list(_COLUMNS))
        chosen = table.filter(pc.is_in(table["prompt_id"], value_set=pa.array(list(names), pa.string())))
        for row in chosen.to_pylist():
            found.setdefault(row["prompt_id"], []).append(row)
    return {name: sorted(rows, key=lambda row: int(row["node"])) for name, rows in found.items()}


def _tree(
    prompt: Row, rows: Sequence[Row], pair: Row | None, why_none: str | None, pictures: Pictures, truth: _Truth | None
) -> Row:
    paths = pictures_of(prompt)
    names = list(prompt["images_sha256"] or [prompt["image_sha256"]])
    shown = [pictures.add(path, name) for path, name in zip(paths[:PICTURES], names, strict=False)]
    place = {row["node"]: index for index, row in enumerate(rows)}
    alone = len(paths) == 1
    nodes = [_node(row, place, truth.wrong(paths[0], row["text"]) if truth and alone else []) for row in rows]
    tree = {
        "id": prompt["prompt_id"],
        "prompt": prompt["prompt"],
        "pictures": [index for index in shown if index is not None],
        "why_none": why_none,  # why it gave no pair
        "nodes": nodes,
    }
    if pair is not None:
        for side in ("chosen", "rejected"):
            tree[side] = [place[node] for node in pair[f"{side}_nodes"]]
            tree[f"{side}_reward"] = _short(pair[f"{side}_reward"])
        tree["margin"] = _short(pair["margin"])
    return tree


def _node(row: Row, place: Mapping[int, int], wrong: list[list[int]]) -> list[Any]:
    parent = None if row["parent"] is None else place.get(row["parent"])
    values = [_short(row[name]) for name in ("reward", "likelihood", "relevance", "log_likelihood")]
    return [parent, row["text"], _status(row), *values, len(row["token_ids"] or ()), row["dropped"], wrong or 0, 0]


def _account(rows: Sequence[Row], settings: Mapping[str, Any]) -> Row:
    """How an answer's score is made of its sentences' rewards, where that is a sum: what is taken off each."""
    earned = [row["reward"] for row in rows if row["reward"] is not None]
    if not earned:
        return {}
    rule = settings.get("pair.path_score")
    bars = {
        "sum": 0.0,
        "threshold_sum": settings.get("pair.threshold", 0.0) * max(earned),
        "centred_sum": fmean(earned),
    }
    return {"bar": float(f"{bars[rule]:.6g}")} if rule in bars else {}


def _mark_repeats(nodes: Sequence[list[Any]]) -> None:
    """Say of each sentence whether it was said before in the same answer, and so earned nothing."""
    text, parent, repeat = NODE.index("text"), NODE.index("parent"), NODE.index("repeat")
    for node in nodes:
        earlier, at = [], node[parent]
        while at is not None:
            earlier.append(nodes[at][text])
            at = nodes[at][parent]
        node[repeat] = int(bool(node[text].strip()) and is_repeat(node[text], earlier))


def _status(row: Row) -> str:
    if row["dropped"]:
        return "dropped"
    if row["parent"] is None:
        return "root"
    return "final" if row["is_final"] else "grown" if row["expanded"] else "left"


def _scale(trees: Sequence[Row], name: str) -> list[float]:
    """The ends of the colours: 2 % and 98 % of the values shown, so that a single one does not decide."""
    at = NODE.index(name)
    values = [node[at] for tree in trees for node in tree["nodes"] if node[at] is not None and node[0] is not None]
    if not values:
        return [0.0, 1.0]
    low, high = (float(end) for end in np.quantile(values, [0.02, 0.98]))
    return [_short(low), _short(high if high > low else low + 1)]


def _truth(layout: Layout, k: int, settings: Mapping[str, Any]) -> _Truth | None:
    """Annotations that lie beside the prompts or the pictures, as the drawn world's do; None where there are none."""
    beside = [layout.prompts(k)]
    for name in ("data.images", "data.prompts"):
        if value := settings.get(name):
            path = find_path(str(value), layout)
            beside += [path, path.parent]
    file = next((folder / "instances.json" for folder in beside if (folder / "instances.json").is_file()), None)
    if file is None:
        return None
    try:
        found = read_instances(file)
    except InputError:  # not COCO's: the page is written all the same
        return None
    parser = object_parser(reads_as_published(found.categories))
    return _Truth(parser, {name: found.truth[image] for name, image in found.image_of_file.items()})


def _short(value: float | None) -> Any:
    return None if value is None else float(f"{value:.4g}")


def sentence_rewards(folder: Path) -> np.ndarray:
    """The rewards of all candidate sentences of an iteration, in no order that means anything."""
    parts = [pq.read_table(file, columns=["reward"])["reward"] for file in sorted(folder.glob("*.parquet"))]
    values = [part.drop_null().to_numpy() for part in parts]
    return np.concatenate(values) if values else np.empty(0)
