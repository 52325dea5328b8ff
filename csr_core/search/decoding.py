"""Forward passes of a search: each sentence once, token by token, many rows a step.

A `State` is a row at rest: all it takes to write on from there. `csr_core.search.prefixes` makes those of prompts. A
`Decoder` takes in states as rows at any time, continues, forks and drops rows, and gives a row's state back. The keys
and values of a prompt are held once whatever the number of its rows, those of a sentence once for all that continue it
(`csr_core.search.shared`). A family of models that does not go along with that gets a decoder with the same interface
whose rows have copies (`csr_core.search.copied`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csr_core.policy import Policy
from csr_core.search.held import Held
from csr_core.search.passes import inner_model, last_logits, text_model
from csr_core.search.shared import View
from csr_core.search.slots import BLOCK, LEAST_ROWS, Layers, Slots

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, eq=False)
class Prefix:
    """Keys and values of a prompt and its picture, and how positions are counted behind it.

    offset: for families whose picture positions are counted otherwise (Qwen-VL), what is to be added to a token's
    number to get its position.
    """

    layers: Layers
    length: int
    offset: int


@dataclass(frozen=True, eq=False)
class State:
    """Where a row stands: its prompt, what it wrote since in chunks that others may share, the next token's logits.

    unread: tokens written after that, which the model has not seen yet (`Prefixes.catch_up`).
    """

    prefix: Prefix
    chunks: tuple[Layers, ...]
    logits: Float[Tensor, " vocab"]
    written: int  # tokens of the chunks
    unread: tuple[int, ...] = ()


class Decoder:
    """Rows under decoding, numbered as they were admitted or as `advance` orders them.

    `logits`: of the next token for each row, float32, where the model is (on the CPU for MPS, which has no float64).
    """

    def __init__(self, policy: Policy, rows: int = LEAST_ROWS, tokens: int = BLOCK, readers: int = LEAST_ROWS) -> None:
        """What is expected. `rows`, `tokens` a row writes: room for them is made once; more can be had, at a cost.

        readers: rows of a prompt; results are the same for any number, to the last bit up to this one.
        """
        self._policy, self._room, self._readers = policy, (rows, tokens), readers
        self._from: list[State] = []  # of each place, what its row started from
        self._order: list[int] = []  # of each row, its place; places have no holes
        self._logits: Tensor | None = None  # by place
        self._own: Slots
        self._prompts: Held
        self._answers: Held

    def __len__(self) -> int:
        return len(self._order)

    @property
    def logits(self) -> Float[Tensor, "rows vocab"]:
        assert self._logits is not None, "no rows were admitted"
        if self._order == list(range(len(self._logits))):
            return self._logits
        return self._logits[torch.tensor(self._order, device=self._logits.device)]

    @torch.inference_mode()
    def admit(self, states: Sequence[State]) -> None:
        """Append a row for each state, behind the others."""
        if not states:
            return
        if self._logits is None:
            like = states[0].prefix.layers
            self._own, self._prompts, self._answers = Slots(like), Held(like), Held(like)
            self._own.reserve(*self._room)
        new = torch.stack([state.logits for state in states])
        before = None if self._logits is None else self._logits[: len(self._from)]
        self._logits = new if before is None else torch.cat([before, new])
        self._order += range(len(self._from), len(self._from) + len(states))
        self._from += states
        self._own.resize(len(self._from))
        for state in states:
            self._prompts.hold(state.prefix, [state.prefix.layers])
            if state.chunks:
                self._answers.hold(state.chunks, state.chunks)

    @torch.inference_mode()
    def advance(self, parents: Int[Tensor, " next"] | Sequence[int], tokens: Int[Tensor, " next"]) -> None:
        """Replace the rows: new row i is row `parents[i]` with `tokens[i]` appended."""
        self._replace([self._order[parent] for parent in torch.as_tensor(parents).tolist()])
        by_place = torch.empty(len(self._order), dtype=torch.long)
        by_place[torch.tensor(self._order)] = tokens.cpu()
        self._forward(by_place[:, None], [1] * len(by_place))

    @torch.inference_mode()
    def write(self, answers: Sequence[Sequence[int]]) -> None:
        """Append several tokens to each row; all must be as they were admitted."""
        longest = max(map(len, answers))
        if longest > 1:
            ids = torch.tensor([[*ids[:-1], *[ids[-1]] * (longest - len(ids))] for ids in answers])
            self._forward(ids, [len(ids) - 1 for ids in answers])
        self._forward(torch.tensor([[ids[-1]] for ids in answers]), [1] * len(answers))

    def state(self, row: int) -> State:
        """The row at rest; what it wrote here becomes a chunk."""
        assert self._logits is not None, "no rows were admitted"
        place = self._order[row]
        before, own = self._from[place], self._own.get(place)
        written = before.written + self._own.lengths[place]
        return State(before.prefix, (*before.chunks, own), self._logits[place].clone(), written)

    def _replace(self, parents: list[int]) -> None:
        """Have a row for each of the places `parents`. The first that continues a row stays where that is."""
        live = dict.fromkeys(parents)
        free = [place for place in range(len(self._from)) if place not in live]
        places, sources, targets = [], [], []
        first = dict.fromkeys(live, True)
        used = len(self._from)
        for parent in parents:
            place = parent
            if not first[parent]:
                place, used = (free.pop(0), used) if free else (used, used + 1)
                sources.append(parent)
                targets.append(place)
            first[parent] = False
            places.append(place)
        started = [self._from[parent] for parent in parents]
        self._own.resize(max(used, len(self._own.lengths)))
        self._own.copy(sources, targets)
        # Holes are filled from the end.
        count, moved = len(parents), {}
        behind = sorted((place for place in places if place >= count), reverse=True)
        for hole in [place for place in free if place < count]:
            moved[behind[0]] = hole
            behind.pop(0)
        self._own.copy(list(moved), list(moved.values()))
        self._own.resize(count)
        self._order = [moved.get(place, place) for place in places]
        before, self._from = self._from, [started[0]] * count
        for place, state in zip(self._order, started, strict=True):
            self._from[place] = state
        self._account(before)

    def _account(self, before: list[State]) -> None:
        """Hold what the present rows read, and let go of what only earlier ones did."""
        for state in self._from:
            self._prompts.hold(state.prefix, [state.prefix.layers])
            if state.chunks:
                self._answers.hold(state.chunks, state.chunks)
        for state in before:
            self._prompts.release(state.prefix)
            if state.chunks:
                self._answers.release(state.chunks)

    def _forward(self, ids: Int[Tensor, "rows new"], counts: Sequence[int]) -> None:
        """Append `ids` to the rows by place; of row i the first `counts[i]` count. Keeps the logits after the last."""
        rows, new, device = len(ids), ids.shape[1], self._policy.device
        more = max(0, LEAST_ROWS - rows)  # see LEAST_ROWS; these rows read nothing and are forgotten
        self._own.resize(rows + more)
        nothing = [None] * more
        common = self._prompts.read_by([*(state.prefix for state in self._from), *nothing], self._readers)
        # Siblings are few.
        common += self._answers.read_by([*(state.chunks or None for state in self._from), *nothing], LEAST_ROWS // 2)
        view = View(common, self._own)
        view.prepare(new)
        ids = torch.cat([ids, ids[-1:].expand(more, new)]).to(device)
        starts = [
            state.prefix.length + state.prefix.offset + state.written + length
            for state, length in zip(self._from, self._own.lengths, strict=False)
        ]
        positions = torch.tensor(starts + [starts[0]] * more)[:, None] + torch.arange(new)
        dimensions = 3 if hasattr(inner_model(self._policy.model), "get_rope_index") else 0
        out = text_model(self._policy)(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=(positions.expand(dimensions, *positions.shape) if dimensions else positions).to(device),
            use_cache=False,
            logits_to_keep=1,
            shared=view,
        )
        self._own.added([*counts, *[0] * more])
        self._own.resize(rows)
        self._logits = last_logits(out)[:rows]
