"""Trees of sentences: one a prompt, each grown level by level, many side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from csr_core.config import GenerateSettings
from csr_core.policy import Policy, PromptInputs
from csr_core.reward.ranks import tolerant_order
from csr_core.search.batches import fitting_batch
from csr_core.search.decoding import State
from csr_core.search.expand import Expander
from csr_core.search.jobs import Job, Sentence
from csr_core.search.passes import context_length
from csr_core.search.prefixes import Prefixes
from csr_core.search.sampling import Stream
from csr_core.search.sentences import sentence_rule

TIE = 1e-5  # scores closer than this (times their size above 1) are floating-point noise: the earlier node goes first

# For each tree the reward of each of its nodes (the root's is not looked at), higher is better.
Rewards = Callable[[Sequence["Tree"]], Sequence[Sequence[float]]]


@dataclass
class Node:
    """One sentence, or the root (0), which stands for the prompt.

    ids, text: this sentence alone, the text with its leading space. written: ids from the root to here.
    path: which sample each sentence was among its siblings, before equal ones were dropped. score: cumulative language
    score; under sampling the sum over the path of log_likelihood / tokens, under beams the sum of their scores.
    characters: of the whole decoded row, where `max_characters` asks for it.
    """

    id: int
    parent: int | None
    depth: int
    path: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    written: tuple[int, ...] = ()
    text: str = ""
    log_likelihood: float = 0.0
    score: float = 0.0
    is_final: bool = False
    expanded: bool = False
    padding: int = 0
    characters: int | None = None


@dataclass
class Tree:
    """All sentences found for one prompt; a node's id is its place in `nodes`."""

    prompt_id: str
    prompt: PromptInputs
    nodes: list[Node] = field(default_factory=lambda: [Node(0, None, 0)])

    def ancestors(self, node: Node) -> list[Node]:
        """The sentences before `node`, first to last, the root left out."""
        out: list[Node] = []
        while node.parent:
            node = self.nodes[node.parent]
            out.append(node)
        return out[::-1]

    def rows(self) -> list[dict[str, Any]]:
        """The tree as rows of the CANDIDATES table."""
        return [
            {
                "prompt_id": self.prompt_id,
                "node": node.id,
                "parent": node.parent,
                "depth": node.depth,
                "text": node.text,
                "token_ids": list(node.ids),
                "log_likelihood": node.log_likelihood,
                "score": node.score,
                "is_final": node.is_final,
                "expanded": node.expanded,
            }
            for node in self.nodes
        ]


def path_sums(tree: Tree, values: Sequence[float]) -> list[float]:
    """Cumulative value of each node: the sum over its path from the root's child on."""
    sums = [0.0] * len(tree.nodes)
    for node in tree.nodes[1:]:  # a parent comes before its children
        sums[node.id] = sums[node.parent or 0] + values[node.id]
    return sums


def select(level: Sequence[Node], values: Sequence[float], settings: GenerateSettings) -> list[Node]:
    """Which nodes of a level to grow, best first: the best and the worst of those that are not final.

    `values`: of each node of the level. A level with fewer than `width` such nodes is grown whole, as in the authors'
    code; so is one that has no more nodes than are kept.
    """
    live = [(node, value) for node, value in zip(level, values, strict=True) if not node.is_final]
    ordered = [live[index][0] for index in tolerant_order([value for _, value in live], TIE)]
    best, worst = settings.keep_best, settings.keep_worst
    if len(ordered) < settings.width or len(ordered) <= best + worst:
        return ordered
    return ordered[:best] + ordered[len(ordered) - worst :]


@dataclass(eq=False)
class _Level:
    """The nodes of a tree that are being grown. states: where the model stands after them, or after their children."""

    tree: Tree
    nodes: list[Node]
    states: dict[int, State] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    found: dict[Job, list[Sentence]] = field(default_factory=dict)


class Grower:
    """Grows trees under one policy and one set of settings.

    Args:
        seed, iteration: with a prompt's id and the place in its tree they decide every random number.
        rewards: gives the nodes' rewards for `keep_by: reward`.
    """

    def __init__(
        self,
        policy: Policy,
        settings: GenerateSettings,
        seed: int = 0,
        iteration: int = 0,
        rewards: Rewards | None = None,
    ) -> None:
        if settings.keep_by == "reward" and rewards is None:
            raise ValueError("keep_by is 'reward': a function that gives the rewards is needed")
        self.policy, self.settings, self.rewards = policy, settings, rewards
        self.seed, self.iteration = seed, iteration
        vocabulary = int(policy.model.get_output_embeddings().weight.shape[0])
        rule = sentence_rule(settings.sentence_end, policy.tokenizer, vocabulary)
        self.prefixes = Prefixes(policy)
        self.expander = Expander(policy, settings, rule, self.prefixes)
        self.context = context_length(policy)
        self._found = settings.batch_size

    def grow(self, trees: Sequence[Tree], on_tree: Callable[[int, int], None] | None = None) -> None:
        """Grow `trees` to their ends; `on_tree(grown, under way)` is called when trees are finished.

        At most `batch_size` trees are under way, so that the prompts kept in memory take less than a batch's rows do.
        """
        if not trees:
            return
        # No table is made for more than so many trees can fill: see `select`.
        kept = max(self.settings.keep_best + self.settings.keep_worst, self.settings.width)
        batch_size = self.expander.batch_size = min(self._batch_size(trees[0]), len(trees) * kept)
        waiting, under_way, done = deque(trees), dict[Job, _Level](), 0
        ready: list[_Level] = []
        while waiting or under_way:
            levels = {id(level) for level in under_way.values()}
            room = batch_size - len(levels) - len(ready)
            if waiting and (4 * room >= batch_size or room >= len(waiting)):
                for _ in range(min(room, len(waiting))):
                    tree = waiting.popleft()
                    self._begin(_Level(tree, [tree.nodes[0]]), under_way)
            for job, sentences in self.expander.step():
                level = under_way.pop(job)
                level.found[job] = sentences
                if len(level.found) == len(level.jobs):
                    ready.append(level)
            # Rewards are asked for many trees at once, unless the batch would run empty meanwhile.
            if ready and (self.expander.hungry or 4 * len(ready) >= batch_size):
                grown = self._next_levels(ready, under_way)
                done, ready = done + grown, []
                if on_tree is not None and grown:
                    on_tree(done, len({id(level) for level in under_way.values()}))

    def _batch_size(self, tree: Tree) -> int:
        """That of the settings, or what the free memory holds, found once."""
        if self._found is None:
            [state] = self.prefixes.get([tree.prompt])
            tokens = self.settings.max_sentence_tokens + 1
            written = tokens * (self.settings.max_sentences or 8) // 2
            self._found = fitting_batch(state, self.settings.width, tokens, written)
        return self._found

    def _begin(self, level: _Level, under_way: dict[Job, _Level]) -> None:
        level.jobs = [self._job(level.tree, node, level.states.get(node.id)) for node in level.nodes]
        under_way.update((job, level) for job in level.jobs)
        self.expander.add(level.jobs)

    def _next_levels(self, ready: Sequence[_Level], under_way: dict[Job, _Level]) -> int:
        """Append what was found, choose the nodes to grow, and begin their levels; returns how many trees are grown."""
        new = [[node for job in level.jobs for node in self._append(level, job)] for level in ready]
        values = self._values([level.tree for level in ready])
        over = 0
        for level, nodes, of_tree in zip(ready, new, values, strict=True):
            chosen = select(nodes, [of_tree[node.id] for node in nodes], self.settings)
            if chosen:
                states = {node.id: level.states[node.id] for node in chosen if node.id in level.states}
                self._begin(_Level(level.tree, chosen, states), under_way)
            else:
                self.prefixes.clear(level.tree.prompt)
                over += 1
        return over

    def _values(self, trees: Sequence[Tree]) -> list[list[float]]:
        """What nodes are chosen by: cumulative reward, or cumulative language score."""
        if self.settings.keep_by == "reward" and self.rewards is not None:
            return [path_sums(tree, values) for tree, values in zip(trees, self.rewards(trees), strict=True)]
        return [[node.score for node in tree.nodes] for tree in trees]

    def _job(self, tree: Tree, node: Node, state: State | None) -> Job:
        sampled = self.settings.method == "sample"
        paths = [(*node.path, index) for index in range(self.settings.width)] if sampled else []
        streams = tuple(Stream(self.seed, self.iteration, tree.prompt_id, path) for path in paths)
        most = self.settings.max_sentences
        return Job(tree.prompt, node.written, streams, state, most is not None and node.depth + 1 >= most)

    def _append(self, level: _Level, job: Job) -> list[Node]:
        """Append the children; of samples with equal text the first alone, since beams may be equal by design."""
        tree, parent, sentences = level.tree, level.nodes[level.jobs.index(job)], level.found[job]
        before = self.policy.decode(parent.written) if parent.written else ""
        seen: set[str] = set()
        new: list[Node] = []
        for index, sentence in enumerate(sentences):
            written = parent.written + sentence.ids
            whole = self.policy.decode(written)
            text = whole[len(before) :] if whole.startswith(before) else self.policy.decode(sentence.ids)
            if self.settings.method == "sample" and text in seen:
                continue
            seen.add(text)
            node = Node(
                id=len(tree.nodes),
                parent=parent.id,
                depth=parent.depth + 1,
                path=(*parent.path, index),
                ids=sentence.ids,
                written=written,
                text=text,
                log_likelihood=sentence.log_likelihood,
                score=parent.score + sentence.score,
                padding=sentence.padding,
            )
            node.is_final = self._at_limit(tree, node) or sentence.final
            tree.nodes.append(node)
            new.append(node)
            if sentence.state is not None:
                level.states[node.id] = sentence.state
        parent.expanded = True
        return new

    def _at_limit(self, tree: Tree, node: Node) -> bool:
        """Whether a limit ends the response with this node: sentences, characters, or the model's context."""
        settings = self.settings
        if settings.max_characters is not None:
            node.characters = decoded_characters(self.policy, tree.prompt, node)
            if node.characters >= settings.max_characters:
                return True
        if settings.max_sentences is not None and node.depth >= settings.max_sentences:
            return True
        longest = tree.prompt.length + len(node.written) + settings.max_sentence_tokens + 1
        return self.context is not None and longest > self.context


def decoded_characters(policy: Policy, prompt: PromptInputs, node: Node) -> int:
    """Characters of prompt and response as the authors count them for `max_characters`.

    Their row holds the special tokens, one placeholder for the picture with a space before it (their tokenizer writes
    it), and padding up to the longest sibling.
    """
    ids: list[int] = prompt.sequence["input_ids"].tolist()
    pictures = {getattr(policy.model.config, name, None) for name in ("image_token_id", "image_token_index")} - {None}
    joined = [token for index, token in enumerate(ids) if token not in pictures or ids[index - 1 : index] != [token]]
    placeholders = sum(token in pictures for token in joined)
    row = [*joined, *node.written, *[policy.pad_id] * node.padding]
    return len(policy.tokenizer.decode(row, clean_up_tokenization_spaces=False)) + placeholders
