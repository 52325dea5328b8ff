"""Stage 1: for each prompt a tree of candidate sentences, written by the current policy.

Prompts are worked on in shards. A shard that is done leaves `part-NNNNN.parquet` and, written before it,
`part-NNNNN.json` with its counts; a run that goes on after an interruption takes the shards that have both as they are.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_core.config import Settings
from csr_core.errors import CsrError, InputError
from csr_core.images import open_image
from csr_core.progress import Progress
from csr_core.records import CANDIDATES, PROMPTS, read_json, read_table, write_json, write_table

if TYPE_CHECKING:
    from PIL.Image import Image

    from csr_core.search.tree import Tree

Row = dict[str, Any]


def generate(settings: Settings, iteration: int, prompts: Path, adapter: Path | None, out: Path) -> dict[str, Any]:
    """Write the candidates of all prompts to `out`, one part a shard, and `summary.json`.

    Args:
        prompts: folder with the PROMPTS table. adapter: the model of the iteration before, None for the base.
        out: may hold finished parts of an interrupted run with the very same inputs; they are kept.

    Returns:
        The summary: numbers of prompts, nodes and complete responses, and `left_out` with the reason for each prompt.

    Raises:
        InputError: the prompts or the model cannot be read. CsrError: out of memory, or a worker was killed.
    """
    rows = read_table(prompts, PROMPTS)
    size = settings.generate.shard_size
    shards = [rows[start : start + size] for start in range(0, len(rows), size)]
    todo = [number for number in range(len(shards)) if not _is_done(out, number)]
    with Progress("generate", len(rows), "prompts") as bar:
        bar.advance(len(rows) - sum(len(shards[number]) for number in todo), "finished before")
        if min(settings.generate.workers, len(todo)) > 1:
            _in_processes(settings, iteration, adapter, {number: shards[number] for number in todo}, out, bar)
        elif todo:
            _in_this_process(settings, iteration, adapter, {number: shards[number] for number in todo}, out, bar)
    summary = _summary([read_json(_part(out, number, "json")) for number in range(len(shards))])
    write_json(out / "summary.json", summary)
    return summary


class Search:
    """A loaded policy and what it needs to grow the trees of a shard."""

    def __init__(self, settings: Settings, iteration: int, adapter: Path | None) -> None:
        from csr_core.policy import load_policy
        from csr_core.search.tree import Grower

        self.settings = settings
        self.policy = load_policy(settings.model, adapter)
        self._images: dict[str, Image] = {}
        self._scorer: Any = None
        if settings.generate.keep_by == "reward":
            from csr_core.reward.scorer import SentenceScorer

            self._scorer = SentenceScorer(settings.reward)
        self.grower = Grower(
            self.policy, settings.generate, settings.seed, iteration, self._rewards if self._scorer else None
        )

    def write_shard(self, number: int, rows: Sequence[Row], out: Path, bar: Progress | None = None) -> None:
        """Grow and write the trees of one shard; what cannot be used is left out and named."""
        import torch

        left_out: list[Row] = []
        trees = list(self._trees(rows, left_out))

        def on_level(depth: int, growing: int) -> None:
            if bar is not None:
                bar.advance(0, f"shard {number}: {depth} sentences deep, {growing} of {len(trees)} trees still grow")

        try:
            self.grower.grow(trees, on_level)
        except torch.OutOfMemoryError as error:
            raise CsrError(
                f"out of GPU memory while generating shard {number} ({error}): lower generate.batch_size "
                f"(now {self.settings.generate.batch_size} nodes of {self.settings.generate.width} rows each)"
            ) from error
        write_json(_part(out, number, "json"), _counts(rows, trees, left_out))
        write_table(_part(out, number, "parquet"), [row for tree in trees for row in tree.rows()], CANDIDATES)

    def _trees(self, rows: Sequence[Row], left_out: list[Row]) -> Iterator[Tree]:
        """The roots of the usable prompts."""
        from csr_core.search.tree import Tree

        self._images.clear()
        for row in rows:
            try:
                image = open_image(row["image"], self.settings.data.max_pixels)
                tree = Tree(row["prompt_id"], self._encode(image, row["prompt"]))
            except InputError as error:
                left_out.append({"prompt_id": row["prompt_id"], "reason": str(error)})
                continue
            self._images[tree.prompt_id] = image
            yield tree

    def _encode(self, image: Image, text: str) -> Any:
        """The prompt as model inputs.

        Raises:
            InputError: the processor cannot read it, it names a second picture, or the model's context has no room for
                a sentence after it.
        """
        placeholder = getattr(self.policy.processor, "image_token", None)
        if placeholder and placeholder in text:
            raise InputError(
                f"the prompt holds {placeholder!r}, which stands for one more picture: take it out of the text"
            )
        try:
            prompt = self.policy.encode(image, text)
        except (ValueError, TypeError, IndexError, KeyError, RuntimeError, OSError) as error:
            raise InputError(f"the model's processor cannot read the prompt or its picture: {error}") from error
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
            {tree.prompt_id: self._images[tree.prompt_id] for tree in trees},
            [(tree.prompt_id, node.text, node.log_likelihood, len(node.ids)) for tree, node in nodes],
            beam_scores=[node.score - tree.nodes[node.parent or 0].score for tree, node in nodes] if beams else None,
            earlier=[[one.text for one in tree.ancestors(node)] for tree, node in nodes]
            if reward.repeats_earn_nothing
            else None,
        )
        found = iter(values)
        return [[0.0, *(next(found) for _ in tree.nodes[1:])] for tree in trees]


def _part(out: Path, number: int, kind: str) -> Path:
    return out / f"part-{number:05d}.{kind}"


def _is_done(out: Path, number: int) -> bool:
    return _part(out, number, "parquet").is_file() and _part(out, number, "json").is_file()


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


_search: Search | None = None  # of a worker process


def _start(settings: Settings, iteration: int, adapter: Path | None, threads: int) -> None:
    import torch

    global _search
    torch.set_num_threads(threads)
    _search = Search(settings, iteration, adapter)


def _work(number: int, rows: Sequence[Row], out: Path) -> int:
    assert _search is not None
    _search.write_shard(number, rows, out)
    return len(rows)


def _in_this_process(
    settings: Settings, iteration: int, adapter: Path | None, shards: dict[int, list[Row]], out: Path, bar: Progress
) -> None:
    import torch

    threads = torch.get_num_threads()
    try:
        search = Search(settings, iteration, adapter)
        for number, rows in shards.items():
            search.write_shard(number, rows, out, bar)
            bar.advance(len(rows))
    finally:
        torch.set_num_threads(threads)


def _in_processes(
    settings: Settings, iteration: int, adapter: Path | None, shards: dict[int, list[Row]], out: Path, bar: Progress
) -> None:
    """The shards in worker processes, each with its own copy of the model and its share of the cores."""
    workers = min(settings.generate.workers, len(shards))
    threads = max(1, math.floor((os.cpu_count() or 1) / workers))
    context = multiprocessing.get_context("spawn")
    arguments = (settings, iteration, adapter, threads)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=arguments) as pool:
        waiting = [pool.submit(_work, number, rows, out) for number, rows in shards.items()]
        try:
            for future in as_completed(waiting):
                bar.advance(future.result())
        except BrokenProcessPool as error:
            raise CsrError(
                f"a worker of generate died ({error}); was it killed for memory, or could it not load the model? "
                "Finished shards are kept: run again with a smaller generate.workers"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
