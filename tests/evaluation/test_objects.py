"""Words to categories. The list is data; what is tested is how texts are read by it."""

import pytest

from csr_core.evaluation.objects import category_of, coco_categories, object_parser, reads_as_published, word_list


def test_word_list_covers_coco_once():
    categories = word_list()["categories"]
    words = [word for name, synonyms in categories.items() for word in (name, *synonyms)]
    assert len(coco_categories()) == 80
    assert len(words) == len(set(words))
    assert all(word == word.lower().strip() for word in words)


@pytest.mark.parametrize(
    ("text", "mentions"),
    [
        ("Two men, three women and their children.", ["person", "person", "person"]),
        ("Knives, geese, mice and calves", ["knife", "bird", "mouse", "cow"]),
        ("The buses wait; the bus leaves. Wine glasses and a wine glass.", ["bus", "bus", "wine glass", "wine glass"]),
        ("a hot dog", ["hot dog"]),
        ("It is hot. Dog and cat.", ["dog", "cat"]),  # no phrase reaches across a full stop
        ("a baby bird beside an adult elephant", ["bird", "elephant"]),
        ("a baby", ["person"]),
        ("a passenger jet, passenger trains, a passenger", ["airplane", "train", "person"]),
        ("bow ties and ties", ["tie", "tie"]),
        ("a toilet seat", ["toilet"]),
        ("the seat of the toilet", ["toilet"]),
        ("a seat", ["chair"]),
        ("home plate and train tracks", []),
        ("a motor bike, the motor cycles", ["motorcycle", "motorcycle"]),
        ("a stove top oven", ["oven"]),
        ("The dog's tail; the man’s hat", ["dog", "person"]),
        ("teddy bears", ["teddy bear"]),
        ("", []),
    ],
)
def test_mentions(text, mentions):
    assert object_parser().mentions(text) == mentions


def test_regular_plurals_of_every_category_are_found():
    plural = {"skis", "scissors", "sheep", "broccoli"}
    for name in set(coco_categories()) - plural:
        ending = "es" if name.endswith(("s", "ch", "sh")) else "s"
        word = "knives" if name == "knife" else "mice" if name == "mouse" else "people" if name == "person" else None
        assert object_parser().mentions(word or name + ending) == [name]


def test_published_reading_misses_what_the_published_program_misses():
    published = object_parser(published=True)
    assert published.mentions("A bus and a minibus; two buses.") == ["bus"]
    assert published.mentions("a tie, some ties, a bow tie") == ["tie", "tie"]
    assert published.mentions("a cheesecake on a motor bike") == []
    assert object_parser().mentions("A bus and a minibus; two buses.") == ["bus"] * 3


def test_reading_follows_the_ground_truth():
    assert reads_as_published(coco_categories())
    assert not reads_as_published(["dog", "bus"])
    assert category_of("motorbike") == "motorcycle"
    assert category_of("unicorn") is None
