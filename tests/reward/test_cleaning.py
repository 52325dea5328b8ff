import pytest

from csr_core.reward.cleaning import clean_sentence


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" A dog runs.", ("A dog runs.", None)),
        ("a well-known @dog | `x` ~ \\", ("a wellknown dog  x", None)),
        ("a dog → a cat ☀", ("a dog  a cat", None)),
        ("a café “here”", ("a café “here”", None)),
        (".", (".", "short")),
        (" ab.", ("ab.", "short")),
        ("-@a-b.", ("ab.", "short")),
        ("abc.", ("abc.", None)),
        ("a a a a a a", ("a a a a a a", "clean")),
        ("a a a a a.", ("a a a a a.", None)),
        ("no" + "o" * 10, ("no" + "o" * 10, "clean")),
        ("n" + "o" * 10, ("n" + "o" * 10, None)),
        ("a dog 개", ("a dog 개", "clean")),
        ("a dog собака", ("a dog собака", "clean")),
        ("a dog いぬ", ("a dog いぬ", "clean")),
        ("a dog&nbsp;&nbsp;b", ("a dog&nbsp;&nbsp;b", "clean")),
        ("a dog&nbsp;b", ("a dog&nbsp;b", None)),
        ("a\nb\nc\nd\ne\nf", ("a\nb\nc\nd\ne\nf", None)),
        ("a\nb\nc\nd\ne\nf\ng", ("a\nb\nc\nd\ne\nf\ng", "clean")),
    ],
)
def test_rules(text, expected) -> None:
    assert clean_sentence(text) == expected
