"""Stage `score`: every sentence of the candidate trees gets its relevance, likelihood and calibrated reward."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from csr_core.config import RewardSettings, Settings
from csr_core.errors import InputError
from csr_core.images import open_image
from csr_core.progress import Progress, add_to_figure
from csr_core.records import (
    CANDIDATES,
    PROMPTS,
    SCORES,
    pictures_name,
    pictures_of,
    read_json,
    read_table,
    write_json,
    write_table,
)
from csr_core.reward.calibration import normalised
from csr_core.reward.cleaning import clean_sentence
from csr_core.reward.likelihood import likelihood_reward
from csr_core.reward.ranks import combined_rank, sibling_ranks
from csr_core.reward.scorer import SentenceScorer, rewards_of_image
from csr_core.stages.models import kept_embeddings
from csr_core.stages.parts import part_files, trees_of_part
from csr_core.stages.shards import missing_parts, part

GROUP = 32  # prompts whose sentences are embedded together
FILES = (".parquet", ".json")  # what a finished shard leaves
COUNTS = ("prompts", "sentences", "repeats", "distinct_sentences_embedded", "images", "long_sentences_split")

Row = dict[str, Any]


def score(
    settings: Settings,
    prompts: Path,
    candidates: Path,
    out: Path,
    scorer: SentenceScorer | None = None,
    state: Path | None = None,
) -> dict[str, Any]:
    """Score the trees of `candidates` part by part into files of the same names in `out` (SCORES schema).

    A prompt whose picture cannot be opened any more, or whose tree is unusable, is left out, counted and named.
    `scorer` is made from `settings.reward` unless given. `state`: where embeddings of pictures are kept from one stage
    to another; None: they are not. Returns the summary, also in `out/summary.json`.

    Raises:
        InputError: the relevance model cannot be loaded, a table is missing or of another stage, or nothing is left.
    """
    count = len(part_files(candidates))
    _refuse_mixed_runs(candidates)
    make_shards(settings, prompts, candidates, out, missing_parts(out, count, FILES), scorer, state)
    parts = [read_json(part(out, number, ".json")) for number in range(count)]
    left_out = [item for one in parts for item in one["left_out"]]
    counts: Counter[str] = Counter()
    for one in parts:
        counts.update(one["counts"])
    if not counts["prompts"]:
        reason = f"{left_out[0]['prompt_id']}: {left_out[0]['reason']}" if left_out else "the candidates are empty"
        raise InputError(f"no prompt of {candidates} could be scored; the first reason is: {reason}")
    dropped: Counter[str] = Counter()
    for one in parts:
        dropped.update(one["dropped"])
    summary = {**{name: counts[name] for name in COUNTS}, "dropped": dict(dropped), "left_out": left_out}
    write_json(out / "summary.json", summary)
    return summary


def make_shards(
    settings: Settings,
    prompts: Path,
    candidates: Path,
    out: Path,
    numbers: Sequence[int],
    scorer: SentenceScorer | None = None,
    state: Path | None = None,
) -> None:
    """Write the parts with these numbers: the scored trees, and a JSON file with what is counted of them."""
    if not numbers:
        return
    known = {row["prompt_id"]: row for row in read_table(prompts, PROMPTS)}
    files = [part_files(candidates)[number] for number in numbers]
    kept = kept_embeddings(settings.reward, state) if state else None
    scorer = scorer or SentenceScorer(settings.reward, kept=kept)
    with Progress("score", total=sum(pq.read_metadata(file).num_rows for file in files), unit="nodes") as bar:
        for number, file in zip(numbers, files, strict=True):
            _score_part(settings, file, known, out, number, scorer, bar)


def _score_part(
    settings: Settings,
    file: Path,
    known: dict[str, Row],
    out: Path,
    number: int,
    scorer: SentenceScorer,
    bar: Progress,
) -> None:
    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    left_out: list[dict[str, str]] = []
    done: list[Row] = []
    scorer.forget()
    before, images = (scorer.embedded_texts, scorer.split_texts), set()
    for group in _groups(trees_of_part(file, CANDIDATES, set())):
        usable = _usable(group, known, settings, scorer, left_out)
        _score_group(settings.reward, usable, known, scorer)
        for tree in usable.values():
            done += tree
            counts["prompts"] += 1
            images.add(pictures_name(known[tree[0]["prompt_id"]]))
            counts["sentences"] += sum(row["reward"] is not None for row in tree)
            counts["repeats"] += sum(row.pop("_repeat", False) for row in tree)
            dropped.update(row["dropped"] for row in tree if row["dropped"])
        relevances = [row["relevance"] for tree in usable.values() for row in tree if row["relevance"] is not None]
        add_to_figure("mean R_I {value:.1f}", sum(relevances), len(relevances))
        bar.advance(sum(len(tree) for tree in group.values()))
    counts["distinct_sentences_embedded"] = scorer.embedded_texts - before[0]
    counts["long_sentences_split"] = scorer.split_texts - before[1]
    counts["images"] = len(images)  # not how many were embedded, which depends on what was done before
    write_table(part(out, number, ".parquet"), done, SCORES)
    write_json(part(out, number, ".json"), {"counts": counts, "dropped": dropped, "left_out": left_out})


def _refuse_mixed_runs(candidates: Path) -> None:
    """A prompt's tree lies in one part: in two, the folder holds parts of two runs."""
    seen: set[str] = set()
    for file in part_files(candidates):
        names = set(pq.read_table(file, columns=["prompt_id"])["prompt_id"].to_pylist())
        if twice := sorted(seen & names):
            raise InputError(
                f"{file} holds nodes of {twice[0]!r}, as an earlier part does: parts of two runs in one folder?"
            )
        seen |= names


def _groups(trees: dict[str, list[Row]]) -> Iterator[dict[str, list[Row]]]:
    names = list(trees)
    for start in range(0, len(names), GROUP):
        yield {name: trees[name] for name in names[start : start + GROUP]}


def _usable(
    group: dict[str, list[Row]],
    known: dict[str, Row],
    settings: Settings,
    scorer: SentenceScorer,
    left_out: list[dict[str, str]],
) -> dict[str, list[Row]]:
    """The trees of the group that can be scored; their pictures are given to the scorer."""
    usable = {}
    for prompt_id, tree in group.items():
        try:
            if prompt_id not in known:
                raise InputError("it is not among the prompts of this iteration: candidates of another run?")
            check_tree(tree)
            name, files = pictures_name(known[prompt_id]), pictures_of(known[prompt_id])
            if not all(Path(file).is_file() for file in files) or not scorer.knows(name):
                scorer.add_images(name, [open_image(file, settings.data.max_pixels) for file in files])
            usable[prompt_id] = tree
        except InputError as error:
            left_out.append({"prompt_id": prompt_id, "reason": str(error)})
    return usable


def check_tree(tree: list[Row]) -> None:
    """Raise InputError, with the node, unless parents stand before their children and every sentence has numbers."""
    nodes: set[int] = set()
    for row in tree:
        if row["parent"] is None:
            if nodes:
                raise InputError(f"node {row['node']} of its tree is a second root")
        elif row["parent"] not in nodes:
            raise InputError(
                f"node {row['node']} of its tree has the parent {row['parent']}, which does not come before it"
            )
        elif any(row[name] is None or not math.isfinite(row[name]) for name in ("log_likelihood", "score")):
            raise InputError(
                f"node {row['node']} of its tree has no finite log-likelihood and score: did the model overflow?"
            )
        nodes.add(row["node"])


def _score_group(
    settings: RewardSettings, trees: dict[str, list[Row]], known: dict[str, Row], scorer: SentenceScorer
) -> None:
    """Fill in the columns of SCORES; sentences of all trees of the group are embedded together."""
    spoken: list[tuple[str, str, Row]] = []
    for prompt_id, tree in trees.items():
        for row, text in _sentences(tree, settings.clean_text):
            spoken.append((pictures_name(known[prompt_id]), text, row))
    for (_, _, row), value in zip(spoken, scorer.relevances([item[:2] for item in spoken]), strict=True):
        row["relevance"] = value
    for tree in trees.values():
        reward_tree(settings, tree)


def _sentences(tree: list[Row], clean: bool) -> list[tuple[Row, str]]:
    """(node, text to score) of each node that counts; sets `dropped` and empties the other columns of SCORES.

    Not among them: the root, nodes without text (the answer just ends there) and, where `clean`, what the authors'
    rules leave out.
    """
    out, dead = [], set()
    for row in tree:
        row.update(dict.fromkeys(("relevance", "likelihood", "reward", "likelihood_rank", "relevance_rank", "dropped")))
        if row["parent"] is None:
            continue
        text = row["text"]
        if row["parent"] in dead:
            row["dropped"] = "ancestor"
        elif clean:
            text, row["dropped"] = clean_sentence(text)
        if row["dropped"]:
            dead.add(row["node"])
        elif text.strip():
            out.append((row, text))
    return out


def reward_tree(settings: RewardSettings, tree: list[Row]) -> None:
    """Set likelihood, reward and ranks of the nodes of one tree whose relevance is set.

    What is relative to the image's candidates is relative to all of these nodes. With ranks, the reward is the
    combined rank with its sign turned, so that a higher reward is better everywhere (a repeat keeps its rank).
    """
    by_node = {row["node"]: row for row in tree}
    told = [row for row in tree if row["relevance"] is not None]
    raw = []
    for row in told:
        own = row["score"] - (by_node[row["parent"]]["score"] or 0.0)
        count = len(row["token_ids"] or [])
        raw.append(likelihood_reward(settings.likelihood, row["log_likelihood"], count, beam_score=own))
    before = _sentences_before(tree)
    repeated = [normalised(row["text"]) in before[row["parent"]] for row in told]
    scaled, rewards = rewards_of_image(settings, [row["relevance"] for row in told], raw, repeated)
    for row, likely, reward, again in zip(told, scaled, rewards, repeated, strict=True):
        row.update(likelihood=likely, reward=reward, _repeat=again)
    if settings.combine == "rank":
        _rank(settings, told)


def _sentences_before(tree: list[Row]) -> dict[int, frozenset[str]]:
    """For each node the normalised sentences from the root to it, its own included."""
    said: dict[int, frozenset[str]] = {}
    for row in tree:
        own = frozenset() if row["parent"] is None else frozenset({normalised(row["text"])})
        said[row["node"]] = own | said.get(row["parent"], frozenset())
    return said


def _rank(settings: RewardSettings, told: list[Row]) -> None:
    siblings: dict[int, list[Row]] = defaultdict(list)
    for row in told:
        siblings[row["parent"]].append(row)
    for rows in siblings.values():
        by_score = sibling_ranks([row["score"] for row in rows])
        by_relevance = sibling_ranks([row["relevance"] for row in rows])
        for row, likely, relevant in zip(rows, by_score, by_relevance, strict=True):
            row.update(likelihood_rank=likely, relevance_rank=relevant)
            row["reward"] = -combined_rank(likely, relevant, settings.image_weight)
