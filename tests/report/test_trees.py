"""Which trees a page shows, and that they are those of the tables."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from csr_core.layout import Layout
from csr_core.records import SCORES, write_table
from csr_core.report.sample import data_uri, spread, spread_order
from csr_core.report.trees import NODE, Pictures, sampled_trees, sentence_rewards
from tests.report.made_up import CHOSEN, REJECTED, write_iteration, write_pictures

PIXELS = 10**7


def trees_of(layout: Layout, **options: int) -> dict:
    pictures = Pictures(layout, PIXELS)
    found = sampled_trees(layout, [1], pictures, **options)
    [iteration] = found["iterations"]
    return {**iteration, "pictures": pictures.uris}


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    write_iteration(layout, 1, 80, write_pictures(tmp_path / "pictures", 5))
    return layout


def test_any_beginning_of_the_order_is_spread_over_the_whole() -> None:
    assert spread_order(range(9)) == [0, 8, 4, 2, 6, 1, 3, 5, 7]
    for count in range(12):
        assert sorted(spread_order(range(count))) == list(range(count))
    first = sorted(spread_order(range(1000))[:17])
    assert max(b - a for a, b in pairwise(first)) < 64


@pytest.mark.parametrize(
    ("count", "shown"),
    [(1, [0]), (4, [0, 1, 2, 3]), (5, [0, 1, 3, 4]), (7, [0, 2, 4, 6]), (100, [0, 33, 66, 99])],
)
def test_items_are_taken_at_equal_distances(count: int, shown: list[int]) -> None:
    assert spread(range(count), 4) == shown


def test_three_of_four_trees_have_a_pair_and_every_margin_is_among_them(layout: Layout) -> None:
    """60 of 80 prompts have a pair; margins go from 40 to 79 and start again."""
    found = trees_of(layout, limit=16)
    assert (found["prompts"], found["pairs"], len(found["trees"])) == (80, 60, 16)
    margins = [tree["margin"] for tree in found["trees"] if "margin" in tree]
    assert len(margins) == 12
    assert (max(margins), min(margins)) == (79.0, 40.0)
    reasons = [tree["why_none"] for tree in found["trees"] if "margin" not in tree]
    assert sorted(set(reasons)) == ["equal texts", "margin too small"]


def test_a_tree_says_what_the_tables_say(layout: Layout) -> None:
    tree = next(tree for tree in trees_of(layout)["trees"] if "margin" in tree)
    file = layout.scores(1) / "part-00000.parquet"
    rows = [row for row in pq.read_table(file).to_pylist() if row["prompt_id"] == tree["id"]]
    assert tree["prompt"] == f"What is in picture {tree['id']}?"
    assert (tree["chosen"], tree["rejected"]) == (list(CHOSEN), list(REJECTED))
    for node, row in zip(tree["nodes"], rows, strict=True):
        told = dict(zip(NODE, node, strict=True))
        assert told["parent"] == row["parent"]
        assert told["text"] == row["text"]
        assert told["dropped"] == row["dropped"]
        assert told["reward"] == pytest.approx(row["reward"], rel=1e-3) if row["reward"] else told["reward"] is None
    assert [node[2] for node in tree["nodes"]] == ["root", "grown", "grown", "final", "dropped", "final"]


def test_pictures_of_several_prompts_are_there_once(layout: Layout) -> None:
    found = trees_of(layout)
    assert len(found["pictures"]) == 5
    assert {place for tree in found["trees"] for place in tree["pictures"]} == set(range(5))


def test_a_picture_that_is_gone_leaves_the_tree(layout: Layout) -> None:
    (layout.root / "pictures" / "0.jpg").unlink()
    found = trees_of(layout)
    assert len(found["pictures"]) == 4
    of_it = [tree["pictures"] for tree in found["trees"] if int(tree["id"]) % 5 == 0]
    assert of_it == [[]] * len(of_it) != []


def test_the_page_has_room_for_so_many_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of a few thousand bytes each: of sixty trees those go in for which there is room."""
    layout = Layout(tmp_path)
    write_iteration(layout, 1, 80, write_pictures(tmp_path / "pictures", 80))
    monkeypatch.setattr("csr_core.report.trees.BYTES", 60_000)
    found = trees_of(layout)
    assert 3 < len(found["trees"]) < 40
    assert sum(map(len, found["pictures"])) < 60_000 + max(map(len, found["pictures"]))


def test_a_picture_is_made_small_and_forgets_where_it_was_taken(tmp_path: Path) -> None:
    from PIL import Image

    exif = Image.Exif()
    exif[0x010F] = "a camera of mine"
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "a.jpg", exif=exif)
    import base64
    import io

    uri = data_uri(tmp_path / "a.jpg", PIXELS)
    assert uri is not None
    content = base64.b64decode(uri.split(",")[1])
    assert b"camera" not in content
    with Image.open(io.BytesIO(content)) as small:
        assert small.size == (320, 160)


def test_ranks_are_rewards_too_of_which_the_higher_is_the_better(layout: Layout) -> None:
    """The stage turns the ranks' sign: 1/n, the best, becomes -1/n. Repeats keep theirs, so none is marked."""
    file = layout.scores(1) / "part-00000.parquet"
    ranks = {1: -0.5, 2: -1.0, 3: -1.0, 4: -1.0, 5: -1.0}
    rows = [{**row, "text": "A dog runs.", "reward": ranks.get(row["node"])} for row in pq.read_table(file).to_pylist()]
    write_table(file, rows, SCORES)
    settings = {"reward.combine": "rank", "reward.repeats_earn_nothing": True}
    found = sampled_trees(layout, [1], Pictures(layout, PIXELS), settings)["iterations"][0]
    assert found["scales"]["reward"] == [-1.0, -0.5]  # from the colour of the worst to that of the best
    assert [node[NODE.index("repeat")] for node in found["trees"][0]["nodes"]] == [0] * 6


def test_what_a_picture_does_not_hold_is_found_where_it_is_annotated(layout: Layout) -> None:
    """The pictures hold dogs alone: neither the ball of " It has a ball.", letters 10 to 14, nor the fork is there."""
    from tests.report.made_up import write_split

    assert not trees_of(layout)["annotated"]
    write_split(layout.prompts(1), [f"{layout.root}/pictures/{n}.jpg" for n in range(5)])
    found = trees_of(layout)
    assert found["annotated"]
    marks = [(node[1], node[9]) for node in found["trees"][0]["nodes"] if node[9]]
    assert marks == [
        (" It has a ball.", [[10, 14]]),
        (" A fork lies there.", [[3, 7]]),
        (" It has a ball.", [[10, 14]]),
    ]


def test_rewards_of_all_sentences_are_read(layout: Layout) -> None:
    rows = pq.read_table(layout.scores(1) / "part-00000.parquet").to_pylist()
    expected = sorted(row["reward"] for row in rows if row["reward"] is not None)
    assert np.allclose(sorted(sentence_rewards(layout.scores(1))), expected)


def test_an_iteration_with_imported_pairs_has_no_trees(layout: Layout) -> None:
    assert sampled_trees(layout, [1, 2], Pictures(layout, PIXELS))["iterations"][0]["iteration"] == 1
    assert sampled_trees(layout, [2], Pictures(layout, PIXELS))["iterations"] == []


def test_a_score_is_explained_by_what_is_taken_off_each_reward(layout: Layout) -> None:
    """threshold_sum with a threshold of 0.5: half of the picture's best reward; nothing under a plain sum."""
    rows = [row for row in pq.read_table(layout.scores(1) / "part-00000.parquet").to_pylist() if row["reward"]]
    for rule, share in (("threshold_sum", 0.5), ("sum", 0.0)):
        settings = {"pair.path_score": rule, "pair.threshold": 0.5}
        found = sampled_trees(layout, [1], Pictures(layout, PIXELS), settings)["iterations"][0]["trees"][0]
        best = max(row["reward"] for row in rows if row["prompt_id"] == found["id"])
        assert found["bar"] == pytest.approx(share * best, rel=1e-3)
    assert "bar" not in trees_of(layout)["trees"][0]


def test_a_sentence_said_before_is_marked_where_it_earns_nothing(layout: Layout) -> None:
    file = layout.scores(1) / "part-00000.parquet"
    rows = [
        {**row, "text": " A  dog runs."} if row["node"] == 3 else row  # below node 1, "A dog runs."
        for row in pq.read_table(file).to_pylist()
    ]
    write_table(file, rows, SCORES)
    repeat = NODE.index("repeat")
    for earns, expected in ((False, 0), (True, 1)):
        settings = {"reward.repeats_earn_nothing": earns}
        tree = sampled_trees(layout, [1], Pictures(layout, PIXELS), settings)["iterations"][0]["trees"][0]
        assert [node[repeat] for node in tree["nodes"]] == [0, 0, 0, expected, 0, 0]
