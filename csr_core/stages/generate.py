"""Stage 1: for each prompt a tree of candidate sentences, written by the current policy.

Prompts are worked on in shards. A shard that is done leaves `part-NNNNN.parquet` and, written after it,
`part-NNNNN.json` with its counts; a run that goes on after an interruption takes the shards that have both as they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_core.config import Settings
from csr_core.errors import InputError
from csr_core.images import open_image
from csr_core.progress import Progress, add_to_figure
from csr_core.records import (
    CANDIDATES,
    PROMPTS,
    pictures_name,
    pictures_of,
    read_json,
    read_table,
    write_json,
    write_table,
)
from csr_core.stages.models import kept_embeddings
from csr_core.stages.shards import missing_parts, part

if TYPE_CHECKING:
    from PIL.Image import Image

    from csr_core.search.tree import Tree

Row = dict[str, Any]

FILES = (".parquet", ".json")  # what a finished shard leaves


def generate(
    settings: Settings, iteration: int, prompts: Path, adapter: Path | None, out: Path, state: Path | None = None
) -> dict[str, Any]:
    """Write the candidates of all prompts to `out`, one part a shard, and `summary.json`.

    Args:
        prompts: folder with the PROMPTS table. adapter: the model of the iteration before, None for the base.
        out: may hold finished parts of an interrupted run with the very same inputs; they are kept.
        state: where embeddings of pictures are kept from one stage to another; None: they are not.

    Returns:
        The summary: numbers of prompts, nodes and complete responses, and `left_out` with the reason for each prompt.

    Raises:
        InputError: the prompts or the model cannot be read.
    """
    count = len(shard_sizes(settings, prompts))
    make_shards(settings, iteration, prompts, adapter, out, missing_parts(out, count, FILES), state)
    summary = _summary([read_json(part(out, number, ".json")) for number in range(count)])
    write_json(out / "summary.json", summary)
    return summary


def shard_sizes(settings: Settings, prompts: Path) -> list[int]:
    """Prompts of each shard."""
    count, size = len(read_table(prompts, PROMPTS)), settings.generate.shard_size
    return [min(size, count - start) for start in range(0, count, size)]


def make_shards(
    settings: Settings,
    iteration: int,
    prompts: Path,
    adapter: Path | None,
    out: Path,
    numbers: Sequence[int],
    state: Path | None = None,
) -> None:
    """Write the parts with these numbers, in this process, the model loaded once."""
    import torch

    if not numbers:
        return
    rows, size = read_table(prompts, PROMPTS), settings.generate.shard_size
    shards = {number: rows[number * size : (number + 1) * size] for number in numbers}
    threads = torch.get_num_threads()
    try:
        with Progress("generate", sum(map(len, shards.values())), "prompts") as bar:
            search = Search(settings, iteration, adapter, state)
            for number, shard in shards.items():
                search.write_shard(number, shard, out, bar)
    finally:
        torch.set_num_threads(threads)


class Search:
    """A loaded policy and what it needs to grow the trees of a shard."""

    def __init__(self, settings: Settings, iteration: int, adapter: Path | None, state: Path | None = None) -> None:
        from csr_core.policy import load_policy
        from csr_core.search.tree import Grower

        self.settings = settings
        self.policy = load_policy(settings.model, adapter)
        self._images: dict[str, list[Image]] = {}  # by name
        self._names: dict[str, str] = {}  # of each prompt's pictures
        self._scorer: Any = None
        self._likely = LikelihoodSoFar()
        if settings.generate.keep_by == "reward":
            from csr_core.reward.scorer import SentenceScorer

            kept = kept_embeddings(settings.reward, state) if state else None
            self._scorer = SentenceScorer(settings.reward, kept=kept)
        self.grower = Grower(
            self.policy, settings.generate, settings.seed, iteration, self._rewards if self._scorer else None
        )

    def write_shard(self, number: int, rows: Sequence[Row], out: Path, bar: Progress) -> None:
        """Grow and write the trees of one shard; what cannot be used is left out and named."""
        left_out: list[Row] = []
        trees = list(self._trees(rows, left_out))

        before = 0

        def on_tree(grown: int, under_way: int) -> None:
            nonlocal before
            self._likely.look_at(trees)
            bar.advance(grown - before)
            before = grown

        self.grower.grow(trees, on_tree)
        self._likely.look_at(trees, whole=True)
        write_table(part(out, number, ".parquet"), [row for tree in trees for row in tree.rows()], CANDIDATES)
        write_json(part(out, number, ".json"), _counts(rows, trees, left_out))
        if left_out:
            bar.advance(len(left_out))

    def _trees(self, rows: Sequence[Row], left_out: list[Row]) -> Iterator[Tree]:
        """The roots of the usable prompts."""
        from csr_core.search.tree import Tree

        self._images.clear()
        self._names.clear()
        if self._scorer is not None:
            self._scorer.forget()
        for row in rows:
            try:
                images = [open_image(image, self.settings.data.max_pixels) for image in pictures_of(row)]
                tree = Tree(row["prompt_id"], self._encode(images, row["prompt"]))
            except InputError as error:
                left_out.append({"prompt_id": row["prompt_id"], "reason": str(error)})
                continue
            name = self._names[tree.prompt_id] = pictures_name(row)
            self._images[name] = images
            yield tree

    def _encode(self, images: Sequence[Image], text: str) -> Any:
        """The prompt as model inputs.

        Raises:
            InputError: the processor cannot read it, it names one more picture, or the model's context has no room for
                a sentence after it.
        """
        placeholder = self.policy.picture_token
        if placeholder and placeholder in text:
            raise InputError(
                f"the prompt holds {placeholder!r}, which stands for one more picture: take it out of the text"
            )
        try:
            prompt = self.policy.encode(images, text)
        except (ValueError, TypeError, IndexError, KeyError, RuntimeError, OSError) as error:
            raise InputError(
                f"the model's processor cannot read the prompt or its picture ({error}): is the picture of an odd "
                "shape, or is a file of the processor missing?"
            ) from error
        room, context = self.settings.generate.max_sentence_tokens + 1, self.grower.context
        if context is not None and prompt.length + room > context:
            raise InputError(
                f"prompt and picture are {prompt.length} tokens and a sentence up to {room - 1}, more than the model's "
                f"context of {context}: shorten the prompt, or sort it out by data.max_prompt_characters"
            )
        return prompt

    def _rewards(self, trees: Sequence[Tree]) -> list[list[float]]:
        """The rewards of all nodes of `trees` so far; the root's is 0."""
        reward, beams = self.settings.reward, self.settings.generate.method == "diverse_beam"
        nodes = [(tree, node) for tree in trees for node in tree.nodes[1:]]
        values = self._scorer.node_rewards(
            {self._names[tree.prompt_id]: self._images[self._names[tree.prompt_id]] for tree in trees},
            [(tree.prompt_id, node.text, node.log_likelihood, len(node.ids)) for tree, node in nodes],
            beam_scores=[node.score - tree.nodes[node.parent or 0].score for tree, node in nodes] if beams else None,
            earlier=[[one.text for one in tree.ancestors(node)] for tree, node in nodes]
            if reward.repeats_earn_nothing
            else None,
            names=self._names,
        )
        found = iter(values)
        return [[0.0, *(next(found) for _ in tree.nodes[1:])] for tree in trees]


class LikelihoodSoFar:
    """The running metric: log-likelihood a token of all sentences. Looked at no more than once in a while."""

    SECONDS = 1.0

    def __init__(self) -> None:
        self._told, self._last = (0.0, 0), time.monotonic()

    def look_at(self, trees: Sequence[Tree], whole: bool = False) -> None:
        """`trees`: of the shard that is under way; `whole`: which ends with this."""
        if not whole and time.monotonic() - self._last < self.SECONDS:
            return
        nodes = [node for tree in trees for node in tree.nodes[1:]]
        now = sum(node.log_likelihood for node in nodes), sum(len(node.ids) for node in nodes)
        add_to_figure("log-likelihood a token {value:.2f}", now[0] - self._told[0], now[1] - self._told[1])
        self._told, self._last = (0.0, 0) if whole else now, time.monotonic()


def _counts(rows: Sequence[Row], trees: Sequence[Tree], left_out: list[Row]) -> dict[str, Any]:
    nodes = [node for tree in trees for node in tree.nodes[1:]]
    return {
        "prompts": len(rows),
        "grown": len(trees),
        "nodes": len(nodes),
        "tokens": sum(len(node.ids) for node in nodes),
        "complete_responses": sum(node.is_final for node in nodes),
        "left_out": left_out,
    }


def _summary(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    names = ("prompts", "grown", "nodes", "tokens", "complete_responses")
    total: dict[str, Any] = {name: sum(part[name] for part in parts) for name in names}
    return {**total, "left_out": [row for part in parts for row in part["left_out"]]}
