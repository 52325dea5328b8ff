"""Answers before and after: marked by what is in the picture, shown in proportion."""

from pathlib import Path

from csr_core.evaluation.objects import object_parser
from csr_core.layout import Layout
from csr_core.report.answers import compared_answers, marked
from csr_core.report.trees import Pictures
from tests.report.made_up import write_answers, write_pictures, write_split


def test_a_text_is_cut_at_what_it_names() -> None:
    pieces = marked("A dog, two dogs and a dining table.", object_parser(), {"dog"})
    assert pieces == [
        ("A ", ""), ("dog", "right"), (", two ", ""), ("dogs", "right"), (" and a ", ""),
        ("dining table", "wrong"), (".", ""),
    ]  # fmt: skip
    assert "".join(text for text, _ in pieces) == "A dog, two dogs and a dining table."


def test_examples_go_from_the_most_improved_to_the_most_worsened(tmp_path: Path) -> None:
    """Pictures hold dogs. Of ten answers six lose their fork, three stay as they are, one gains a fork."""
    layout = Layout(tmp_path)
    pictures = write_pictures(tmp_path / "pictures", 10)
    write_split(tmp_path / "split", pictures)
    write_answers(layout, 0, ["A dog and a fork."] * 6 + ["A dog."] * 4)
    write_answers(layout, 2, ["A dog."] * 9 + ["A dog and a fork."])
    [found] = compared_answers(layout, 2, {"test": tmp_path / "split"}, Pictures(layout, 10**7), shown=4)
    assert (found.total, found.better, found.same, found.worse) == (10, 6, 3, 1)
    assert [one.wrong for one in found.examples] == [(1, 0), (1, 0), (0, 0), (0, 1)]
    assert found.examples[-1].pieces[1] == [
        ("A ", ""), ("dog", "right"), (" and a ", ""), ("fork", "wrong"), (".", ""),
    ]  # fmt: skip
    assert all(one.picture is not None for one in found.examples)


def test_a_split_that_was_moved_away_is_left_out(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    for k in (0, 1):
        write_answers(layout, k, ["A dog."])
    pictures = Pictures(layout, 10**7)
    assert compared_answers(layout, 1, {"test": tmp_path / "gone"}, pictures) == []
    assert compared_answers(layout, 1, {"other": tmp_path / "gone"}, pictures) == []
