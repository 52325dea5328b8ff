"""Tokenizers of the families' own classes, their vocabularies trained in place on the miniature world's sentences."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

from csr_core.miniature.world import DESCRIBE, OBJECTS, Question, sentences

MERGES = 150


@lru_cache
def _texts() -> tuple[str, ...]:
    asked = [Question(name, True, "").text for name in OBJECTS]
    return (*sentences(), *asked, DESCRIBE, "USER: ASSISTANT: User: Assistant: user assistant model Yes. No.")


@lru_cache
def _trained(bytes_level: bool) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...]]:
    """(merges, pieces in the order of their numbers) of a byte-pair vocabulary, as in GPT-2 or as in Llama."""
    core = Tokenizer(models.BPE())
    if bytes_level:
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        alphabet = ["▁"]
    trainer = trainers.BpeTrainer(
        vocab_size=MERGES + (256 if bytes_level else 60), initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(_texts(), trainer)
    model = json.loads(core.to_str())["model"]
    return tuple(tuple(merge) for merge in model["merges"]), tuple(sorted(model["vocab"], key=model["vocab"].get))


def byte_level(kind: str, specials: list[str], **named: Any) -> Any:
    """A tokenizer as GPT-2, Llama 3 and Qwen have them: bytes, merges, then the special tokens."""
    merges, pieces = _trained(True)
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    return _with_specials(getattr(transformers, kind)(vocab=vocabulary, merges=list(merges), **named), specials)


def sentence_piece(kind: str, first: list[str], specials: list[str], **named: Any) -> Any:
    """A tokenizer as Llama 2 and Gemma have them: control tokens `first`, bytes, pieces, then the special tokens."""
    merges, pieces = _trained(False)
    names = [*first, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    vocabulary = {piece: number for number, piece in enumerate(names)}
    return _with_specials(getattr(transformers, kind)(vocab=vocabulary, merges=list(merges), **named), specials)


def _with_specials(tokenizer: Any, specials: list[str]) -> Any:
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in specials], special_tokens=True)
    return tokenizer
