"""Pairs of a true and a false sentence, from annotations."""

from csr_core.evaluation.sources import Annotated, Annotations, Box
from csr_core.miniature import world
from csr_core.reward.claims import claims, together, usual_companions
from csr_core.reward.trial_data import drawn_data


def test_what_usually_goes_together_is_counted_by_hand() -> None:
    pictures = [Annotated(str(n), tuple(map(Box, names))) for n, names in enumerate([
        ("dog", "ball"), ("dog", "ball"), ("dog", "cat"), ("dog",), ("cat", "sofa"),
    ])]  # fmt: skip
    company = together(pictures)
    assert company["dog"] == {"ball": 0.5, "cat": 0.25}
    assert company["ball"] == {"dog": 1.0}
    assert usual_companions(["dog"], ["sofa", "cat", "ball"], company) == ["ball", "cat"]
    assert usual_companions(["dog", "cat"], ["ball", "sofa"], company) == ["ball", "sofa"]  # both 0.5: by name


def street() -> Annotated:
    """A dog left of a bus, two people; skis that overlap the bus, and a crowd of cars."""
    return Annotated("street.jpg", (
        Box("dog", (0, 0, 20, 20)), Box("bus", (20, 0, 40, 20)), Box("skis", (50, 0, 20, 20)),
        Box("person", (80, 0, 5, 9)), Box("person", (90, 0, 5, 9)), Box("car", (0, 50, 99, 9), crowd=True),
        Box("car", (0, 70, 9, 9)),
    ))  # fmt: skip


def test_sentences_of_photographs_are_true_and_false_as_annotated() -> None:
    picture = street()
    absent = ("fork", "cat", "umbrella", "kite", "bed", "elephant")
    data = Annotations([picture, Annotated("b.jpg", (Box("bus"), Box("fork")))], (*picture.names, *absent), {})
    made = claims(data, "photographs", [picture])
    assert made == claims(data, "photographs", [picture])
    kinds = {kind: [claim for claim in made if claim.kind == kind] for kind in {claim.kind for claim in made}}
    assert {claim.false for claim in kinds["companion"]} == {"There is a fork in the picture."}
    assert len({claim.false for claim in kinds["object"]}) == 3
    assert "There is a fork in the picture." not in {claim.false for claim in kinds["object"]}
    trues = {claim.true for claim in kinds["object"]}
    assert trues == {f"There is a {name} in the picture." for name in ("dog", "bus", "pair of skis", "person", "car")}
    assert [claim.true for claim in kinds["count"]] == ["There are two people in the picture."]  # of cars: a crowd
    assert kinds["count"][0].false != kinds["count"][0].true
    relations = [(claim.true, claim.false) for claim in kinds["left or right"]]
    assert ("There is a dog to the left of a bus.", "There is a dog to the right of a bus.") in relations
    assert len(relations) == 2  # and dog and skis; bus and skis overlap, people and cars are several
    for claim in kinds["list"]:
        said, wrong = (
            sentence.removeprefix("There is ").removesuffix(" in the picture.")
            for sentence in (claim.true, claim.false)
        )
        assert said.count(" and ") == wrong.count(" and ") == 1
        assert sum(name in absent for name in claim.objects) == 1


def test_drawn_sentences_are_those_of_the_world() -> None:
    data = drawn_data(20)
    made = [*claims(data.annotations, data.style, data.pictures), *data.more]
    assert {sentence for claim in made for sentence in (claim.true, claim.false)} <= set(world.sentences())
    scenes = {f"{scene.index:04d}.png": scene for scene in world.sample_split("validation", 20, 0)}
    for claim in made:
        if claim.kind in ("object", "companion"):
            true, false = claim.objects
            assert true in scenes[claim.image].names
            assert false not in scenes[claim.image].names
            assert (false in world.absent_companions(scenes[claim.image])) == (claim.kind == "companion")
