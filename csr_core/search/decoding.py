"""Forward passes of a search: each prompt with its picture once, each sentence once, token by token, many rows a step.

A `State` is a row at rest: all it takes to write on from there. `Prefixes.read` makes those of prompts (and of answers
that were written elsewhere). A `Decoder` takes in states as rows at any time, continues, forks and drops rows, and
gives a row's state back. The keys and values of a prompt are held once whatever the number of its rows, those of a
sentence once for all that continue it (`csr_core.search.shared`). A family of models that does not go along with that
gets a decoder with the same interface whose rows have copies (`csr_core.search.copied`).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csr_core.policy import Policy, PromptInputs, collate
from csr_core.policy.pictures import Pictures, takes_features
from csr_core.search.held import Held
from csr_core.search.passes import base_model, close, inner_model, kept, last_logits, new_cache, text_model
from csr_core.search.shared import View, use_shared_prefixes
from csr_core.search.slots import BLOCK, LEAST_ROWS, Layers, Slots, whole_blocks

if TYPE_CHECKING:
    from csr_core.search.copied import CopyingDecoder

READ_TOGETHER = 8  # prompts in one forward pass: enough to fill the machine, and little memory


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


class Prefixes:
    """Reads prompts for decoding, so that no picture is looked at twice; `clear` when their trees are finished.

    `shared` says whether rows share what they have in common, or copy it; None finds out whether the model can.
    """

    def __init__(self, policy: Policy, shared: bool | None = None) -> None:
        self.policy = policy
        self.encoded = 0  # prompts sent through the model so far
        self._kept: dict[int, tuple[PromptInputs, State]] = {}  # by identity, which holds while the prompt is kept
        self._shared = shared
        self.pictures: Pictures | None = None  # None too where the model cannot be given features; found out once
        self._tried_pictures = False

    def clear(self, prompt: PromptInputs | None = None) -> None:
        """Forget `prompt`, or all."""
        if prompt is None:
            self._kept.clear()
        else:
            self._kept.pop(id(prompt), None)

    @torch.inference_mode()
    def get(self, prompts: Sequence[PromptInputs]) -> list[State]:
        """The states of prompts to which nothing was written yet; the missing ones are read in batches."""
        new = list({id(prompt): prompt for prompt in prompts if id(prompt) not in self._kept}.values())
        for start in range(0, len(new), READ_TOGETHER):
            batch = new[start : start + READ_TOGETHER]
            for prompt, state in zip(batch, self._encode(batch), strict=True):
                self._kept[id(prompt)] = (prompt, state)
            self.encoded += len(batch)
        return [self._kept[id(prompt)][1] for prompt in prompts]

    def read(self, prompts: Sequence[PromptInputs], written: Sequence[Sequence[int]]) -> list[State]:
        """The states of prompts with answers begun elsewhere, given as token ids."""
        states = self.get(prompts)
        return self.catch_up([replace(one, unread=tuple(ids)) for one, ids in zip(states, written, strict=True)])

    def catch_up(self, states: Sequence[State]) -> list[State]:
        """The states once the model has read what it has not yet."""
        found = list(states)
        behind = [row for row, state in enumerate(found) if state.unread]
        if behind:
            decoder = self.decoder()
            decoder.admit([replace(found[row], unread=()) for row in behind])
            decoder.write([found[row].unread for row in behind])
            for place, row in enumerate(behind):
                found[row] = decoder.state(place)
        return found

    def decoder(
        self, rows: int = LEAST_ROWS, tokens: int = BLOCK, readers: int = LEAST_ROWS
    ) -> Decoder | CopyingDecoder:
        """A decoder without rows, of the kind that the model goes along with; see `Decoder` for what is expected."""
        from csr_core.search.copied import CopyingDecoder

        return CopyingDecoder(self.policy) if self._shared is False else Decoder(self.policy, rows, tokens, readers)

    def _find_out(self, prompt: PromptInputs, state: State) -> None:
        """Whether rows can share, tried on one prompt against rows with copies; and whether these can be relied on."""
        from csr_core.search.trial import agree, check_goes_on

        self._shared = use_shared_prefixes(base_model(self.policy.model)) and agree(self.policy, state)
        check_goes_on(self.policy, prompt, state, self.decoder())
        if not self._shared:
            kind = type(base_model(self.policy.model)).__name__
            print(f"{kind} does not share prompts between rows: each row keeps a copy", file=sys.stderr, flush=True)

    def _encode(self, prompts: Sequence[PromptInputs]) -> list[State]:
        if not self._tried_pictures and prompts[0].features:
            self._tried_pictures, self.pictures = True, self._pictures_apart(prompts[0])
        cache, logits = self._first_pass(prompts) if self._shared is None else self._pass(prompts)
        offsets = getattr(inner_model(self.policy.model), "rope_deltas", None)
        offset = [0] * len(prompts) if offsets is None else offsets.flatten().tolist()
        states = []
        for row, prompt in enumerate(prompts):
            # A clone, so that the padded batch need not be kept for it.
            layers = [
                (one.keys[row, :, -prompt.length :].clone(), one.values[row, :, -prompt.length :].clone())
                for one in cache.layers
            ]
            states.append(State(Prefix(layers, prompt.length, offset[row]), (), logits[row].clone(), 0))
        if self._shared is None:
            self._find_out(prompts[0], states[0])
        return states

    def _first_pass(self, prompts: Sequence[PromptInputs]) -> tuple[Any, Float[Tensor, "prompts vocab"]]:
        """As `_pass`; an InputError where the model is of a kind that cannot be worked with."""
        from csr_core.search.trial import told_why

        with told_why(self.policy):
            cache, logits = self._pass(prompts)
            lengths = {one.keys.shape[2] for one in cache.layers}
            assert lengths == {whole_blocks(max(prompt.length for prompt in prompts))}, f"{lengths} keys a layer"
        return cache, logits

    def _pass(self, prompts: Sequence[PromptInputs]) -> tuple[Any, Float[Tensor, "prompts vocab"]]:
        """The cache of prompts without answers, and the logits behind them."""
        cache, inputs = new_cache(), self._collate(prompts)
        if not hasattr(inner_model(self.policy.model), "get_rope_index"):
            inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        out = self.policy.model(**inputs, past_key_values=cache, use_cache=True, logits_to_keep=kept(len(prompts)))
        return cache, last_logits(out)

    def _pictures_apart(self, prompt: PromptInputs) -> Pictures | None:
        """What computes features, if the model says the same with them in place of pixels; tried on a prompt twice."""
        inner = inner_model(self.policy.model)
        if not takes_features(inner):
            return None
        expected = self._first_pass([prompt, prompt])[1]
        self.pictures = Pictures(inner, self.policy.device, self.policy.model.dtype)
        try:
            found = self._pass([prompt, prompt])[1]
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError):
            return None
        return self.pictures if close(found, expected, self.policy.model.dtype) else None

    def _collate(self, prompts: Sequence[PromptInputs]) -> dict[str, Any]:
        """Model inputs of prompts without answers, padded on the left to a length of whole blocks."""
        apart = self.pictures is not None and bool(prompts[0].features)
        texts = [PromptInputs(prompt.sequence, {}) for prompt in prompts] if apart else prompts
        inputs: dict[str, Any] = collate(texts, [[]] * len(texts), self.policy.pad_id, self.policy.device)
        if self.pictures is not None and apart:
            inputs |= self.pictures.inputs([prompt.features for prompt in prompts])
        length = inputs["input_ids"].shape[1]
        more = whole_blocks(length) - length
        for name in prompts[0].sequence:
            fill = self.policy.pad_id if name == "input_ids" else 0
            inputs[name] = torch.nn.functional.pad(inputs[name], (more, 0), value=fill)
        return inputs


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
