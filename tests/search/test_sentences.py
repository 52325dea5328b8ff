"""Where sentences end."""

import re

import pytest

from csr_core.errors import InputError
from csr_core.miniature.tokenizer import language_tokenizer
from csr_core.search.sentences import TextRule, TokenRule, goes_on, may_end, period_id

# As tokens come: words with their space, single marks, digits.
PIECES = r" ?[A-Za-z]+| ?\d|[^\w ]| "


def split(text: str, pieces: str = PIECES) -> list[str]:
    """The sentences of a text that arrives in `pieces`."""
    out, now, waiting = [], "", False
    for piece in re.findall(pieces, text):
        if waiting and not goes_on(now, piece):
            out.append(now)
            now = ""
        now += piece
        waiting = may_end(now)
    return [*out, now] if now else out


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("A dog runs. It is brown.", 2),
        ("Is it a dog? Yes! It is.", 3),
        ("It weighs 3.5 kilos. It is old.", 2),
        ("There are 3. Two are red.", 2),
        ("Mr. Smith and Dr. Jones sit. They talk.", 2),
        ("Pets, e.g. a dog, play. They run.", 2),
        ("The man, J. Smith, waves. He smiles.", 2),
        ("It is in the U.S. capital. Nice.", 2),
        ('He says "Stop!" and runs. They laugh.', 2),
        ('He says "Stop!" They laugh.', 2),
        ("A sign (it is red.) It says no.", 2),
        ("Well... perhaps a dog. Yes.", 2),
        ("Well... The dog runs.", 2),
        ("Really?! Yes.", 2),
        ("See www.name.org for more. Fine.", 2),
        ("1. A dog. 2. A cat.", 2),
        ("A dog\nA cat\n", 2),
        ("\n\nA dog runs.", 1),
        ("A dog without an end", 1),
    ],
)
def test_sentences_of_a_text(text, count):
    found = split(text) if "\n" not in text else split_lines(text)
    assert len(found) == count, found
    assert "".join(found) == text


def split_lines(text: str) -> list[str]:
    return split(text, r"\n| ?\w+|[^\w ]")


def test_wide_full_stops_end_without_a_space():
    assert may_end("一只狗。")
    assert not goes_on("一只狗。", "它")
    assert goes_on("他说「走。", "」")


def test_rules_on_the_miniature_tokenizer():
    tokenizer = language_tokenizer()
    rule = TextRule(tokenizer, len(tokenizer) + 3)
    ids = tokenizer("There is a dog. There")["input_ids"]
    assert rule.could_end.nonzero()[:, 0].tolist() == sorted(tokenizer.convert_tokens_to_ids([".", "?", "!", "\n"]))
    assert rule.waits(tuple(ids[:5]))
    assert not rule.waits(tuple(ids[:4]))
    assert not rule.goes_on(tuple(ids[:5]), ids[5])
    by_token = TokenRule(tokenizer, len(tokenizer))
    assert by_token.period == ids[4]
    assert by_token.waits(tuple(ids[:5]))


def test_a_tokenizer_that_joins_the_full_stop_to_the_word_is_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel({"a.": 0, "dog.": 1, "image.": 2, "?": 3}, unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    with pytest.raises(InputError, match="sentence_end: text"):
        period_id(PreTrainedTokenizerFast(tokenizer_object=core))
