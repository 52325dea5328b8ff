"""Rewards of many sentences at once: each picture embedded once, each distinct sentence once."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from csr_core.config import RewardSettings
from csr_core.errors import InputError
from csr_core.reward.calibration import calibrated_reward, is_repeat, standardise, without_repeats
from csr_core.reward.embeddings import Embeddings
from csr_core.reward.likelihood import likelihood_reward
from csr_core.reward.relevance import Embedder, image_relevance, load_relevance

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_IMAGES = 4096  # embeddings kept: of 768 numbers, 12 MiB
MAX_TEXTS = 16384  # 48 MiB
IMAGES_TOGETHER = 64  # pictures, as pixels, stacked for the image tower


class SentenceScorer:
    """R_I and R of sentences; pictures and sentences already seen are not embedded again (bounded, oldest out first).

    `embedder` is loaded from `settings.model` unless given. `kept`: embeddings of pictures from earlier stages and
    iterations, for pictures that are named by the SHA-256 of their files. `split_texts` counts the sentences too long
    for the text tower, which were scored chunk by chunk.
    """

    def __init__(
        self, settings: RewardSettings, embedder: Embedder | None = None, kept: Embeddings | None = None
    ) -> None:
        self.settings, self.kept = settings, kept
        self.embedder: Embedder = embedder if embedder is not None else load_relevance(settings)
        self.split_texts = 0
        self.embedded_images = 0
        self.embedded_texts = 0
        self._images: OrderedDict[str, Tensor] = OrderedDict()
        self._texts: OrderedDict[str, Tensor] = OrderedDict()
        self._pixels: dict[str, Tensor] = {}
        self._several: dict[str, list[str]] = {}  # names that stand for several pictures, and theirs

    def forget(self) -> None:
        """Start anew with pictures and sentences; the counts go on.

        A shard begins with this: which sentences are embedded together, and so the last bits of their numbers, then
        does not depend on which shards the same process made before.
        """
        for known in (self._images, self._texts, self._pixels, self._several):
            known.clear()

    def knows(self, image: str) -> bool:
        """Whether the picture of that name need not be given again."""
        names = self._several.get(image, [image])
        if self.kept is not None:
            self._images.update(self.kept.get([n for n in names if n not in self._images and n not in self._pixels]))
        return all(name in self._images or name in self._pixels for name in names)

    def add_image(self, name: str, image: Image) -> None:
        """Remember a picture, shrunk to what the image tower reads; embedded with others when it is first needed."""
        if not self.knows(name):
            self._pixels[name] = self.embedder.prepare(image)

    def add_images(self, name: str, images: Sequence[Image]) -> None:
        """As `add_image`, of one or several pictures under one name; that of several may be theirs, joined by +."""
        if len(images) == 1:
            return self.add_image(name, images[0])
        parts = name.split("+")
        numbered = [f"{name}/{number}" for number in range(len(images))]
        self._several[name] = parts if len(parts) == len(images) else numbered
        for own, image in zip(self._several[name], images, strict=True):
            self.add_image(own, image)

    def relevances(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """R_I of each (name given before, sentence); white space around a sentence does not count.

        With several pictures under the name it is the largest of their R_I: a sentence may tell of one of them. Ours;
        the paper has one picture a prompt.

        Raises:
            KeyError: a picture that was not given, or was given so long ago that it is forgotten.
        """
        names = [self._several.get(name, [name]) for name, _ in pairs]
        each = iter(self._of_each([(one, text) for own, (_, text) in zip(names, pairs, strict=True) for one in own]))
        return [max(next(each) for _ in own) for own in names]

    def _of_each(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """R_I of each (name of a picture, sentence)."""
        stripped = [(name, text.strip()) for name, text in pairs]
        images = self._image_rows({name for name, _ in stripped})
        texts = self._text_rows(list(dict.fromkeys(text for _, text in stripped)))
        said: dict[str, dict[str, None]] = defaultdict(dict)
        for name, text in stripped:
            said[name][text] = None
        values: dict[tuple[str, str], float] = {}
        for name, distinct in said.items():
            rows = torch.stack([texts[text] for text in distinct])
            found = image_relevance(images[name], rows, self.settings.relevance_floor).tolist()
            values.update(zip(((name, text) for text in distinct), found, strict=True))
        return [values[pair] for pair in stripped]

    def node_rewards(
        self,
        images: Mapping[str, Image | Sequence[Image]],
        nodes: Sequence[tuple[str, str, float, int]],
        *,
        beam_scores: Sequence[float] | None = None,
        earlier: Sequence[Sequence[str]] | None = None,
        names: Mapping[str, str] | None = None,
    ) -> list[float]:
        """R of each node (prompt_id, sentence, log-likelihood in nats, number of tokens), higher is better.

        What is relative to an image's candidates (`likelihood_scale: standardised`, what a repeat earns) is relative
        to that prompt's nodes in this call: give all nodes of a prompt that are compared in one call. Always values,
        also under `combine: rank`, where the search does not ask. A node without text (the answer just ends there)
        gets the mean of its prompt's others: neither best nor worst.

        Args:
            images: pictures by name; those of earlier calls need not be given again.
            names: of each prompt_id the name of its picture; None: they are the same.
            beam_scores: each node's own score in the search, for `likelihood: beam_score`.
            earlier: for each node the sentences before it on its path, for `repeats_earn_nothing`.

        Raises:
            InputError: `likelihood: beam_score` is set and the search has no such scores.
        """
        if self.settings.likelihood == "beam_score" and beam_scores is None:
            raise InputError(
                "reward.likelihood is 'beam_score', which the choice of nodes to grow is not given here: set "
                "generate.keep_by: likelihood (as the authors-code preset does), or another reward.likelihood"
            )
        for name, given in images.items():
            self.add_images(name, given if isinstance(given, Sequence) else [given])
        spoken = [index for index, node in enumerate(nodes) if node[1].strip()]
        own = names or {}
        found = self.relevances([(own.get(nodes[index][0], nodes[index][0]), nodes[index][1]) for index in spoken])
        relevance = dict(zip(spoken, found, strict=True))
        by_prompt: dict[str, list[int]] = defaultdict(list)
        for index, node in enumerate(nodes):
            by_prompt[node[0]].append(index)
        out = [0.0] * len(nodes)
        for indices in by_prompt.values():
            told = [index for index in indices if index in relevance]
            raw = [
                likelihood_reward(
                    self.settings.likelihood, *nodes[index][2:], beam_score=beam_scores[index] if beam_scores else None
                )
                for index in told
            ]
            again = [bool(earlier) and is_repeat(nodes[index][1], (earlier or [])[index]) for index in told]
            _, rewards = rewards_of_image(self.settings, [relevance[index] for index in told], raw, again)
            neutral = sum(rewards) / len(rewards) if rewards else 0.0
            for index in indices:
                out[index] = neutral
            for index, reward in zip(told, rewards, strict=True):
                out[index] = reward
        return out

    def _image_rows(self, names: set[str]) -> dict[str, Float[Tensor, " dim"]]:
        waiting = [name for name in self._pixels if name in names]
        for start in range(0, len(waiting), IMAGES_TOGETHER):
            batch = waiting[start : start + IMAGES_TOGETHER]
            rows = self.embedder.embed_images(torch.stack([self._pixels.pop(name) for name in batch]))
            new = dict(zip(batch, rows, strict=True))
            self._images.update(new)
            if self.kept is not None:
                self.kept.put(new)
            self.embedded_images += len(batch)
        out = {name: self._images[name] for name in names}
        _forget(self._images, MAX_IMAGES)
        return out

    def _text_rows(self, texts: list[str]) -> dict[str, Float[Tensor, " dim"]]:
        new = [text for text in texts if text not in self._texts]
        if new:
            rows, split = self.embedder.embed_texts(new)
            self._texts.update(zip(new, rows, strict=True))
            self.embedded_texts += len(new)
            self.split_texts += sum(split)
        out = {text: self._texts[text] for text in texts}
        _forget(self._texts, MAX_TEXTS)
        return out


def rewards_of_image(
    settings: RewardSettings, relevances: Sequence[float], likelihoods: Sequence[float], repeated: Sequence[bool]
) -> tuple[list[float], list[float]]:
    """(R_T in the scale of the settings, R) of one image's candidates, from R_I, raw R_T and which are repeats."""
    scaled = list(likelihoods)
    if settings.likelihood_scale == "standardised":
        scaled = standardise(likelihoods, relevances)
    pairs = zip(relevances, scaled, strict=True)
    rewards = [calibrated_reward(seen, likely, settings.image_weight) for seen, likely in pairs]
    if settings.repeats_earn_nothing:
        rewards = without_repeats(rewards, repeated)
    return scaled, rewards


def _forget(kept: OrderedDict[str, Tensor], most: int) -> None:
    while len(kept) > most:
        kept.popitem(last=False)
