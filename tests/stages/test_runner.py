"""A stage runs once for the same content, and its outputs appear whole or not at all."""

from pathlib import Path
from typing import Any

import pytest

from csr_core.errors import InputError
from csr_core.layout import Layout
from csr_core.stages.plan import StageCall
from csr_core.stages.runner import run_stage


class Work:
    """A stage that copies its input and counts how often it ran."""

    def __init__(self, root: Path) -> None:
        self.layout, self.source, self.ran = Layout(root), root / "in.txt", 0
        self.source.write_text("one")

    def call(self, settings: dict[str, Any] | None = None, fail: bool = False) -> StageCall:
        def run(out: Path) -> dict[str, Any]:
            self.ran += 1
            (out / "result.txt").write_text(self.source.read_text())
            if fail:
                raise RuntimeError("killed")
            return {"left_out": []}

        return StageCall("score", 1, (self.source,), settings or {}, {"": self.layout.scores(1)}, run)

    def run(self, **options: Any) -> bool:
        return run_stage(self.call(**options), self.layout).cached

    @property
    def made(self) -> Path:
        return self.layout.scores(1) / "result.txt"


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(tmp_path)


def test_the_same_content_is_done_once(work: Work) -> None:
    assert [work.run(), work.run()] == [False, True]
    work.source.touch()
    assert work.run()
    assert work.ran == 1


def test_changed_input_settings_or_output_is_made_again(work: Work) -> None:
    work.run()
    work.source.write_text("two")
    assert not work.run()
    assert work.made.read_text() == "two"
    assert not work.run(settings={"x": 1})
    work.run()
    work.made.write_text("damaged")
    assert not work.run()
    work.made.unlink()
    assert not work.run()
    assert work.made.read_text() == "two"


def test_a_stage_that_dies_leaves_the_old_result(work: Work) -> None:
    work.run()
    work.source.write_text("two")
    with pytest.raises(RuntimeError):
        work.run(fail=True)
    assert work.made.read_text() == "one"
    assert not work.run()
    assert work.made.read_text() == "two"


def test_a_missing_input_is_named(work: Work) -> None:
    work.source.unlink()
    with pytest.raises(InputError, match=r"in\.txt"):
        work.run()
