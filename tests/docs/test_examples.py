"""The worked examples of the docs print what the pages say, and the new reward of the docs can be put in."""

from __future__ import annotations

import doctest
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT, blocks, name

WORKED = [*sorted((DOCS / "how-it-works").glob("*.md")), DOCS / "changing-the-reward.md"]


@pytest.mark.parametrize("page", WORKED, ids=name)
def test_the_examples_of_a_page_print_what_it_says(page: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}  # the blocks of a page are one session
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    for line, text in blocks(page, "python"):
        session = doctest.DocTestParser().get_doctest(text, names, name(page), str(page), line)
        assert any(example.want for example in session.examples), f"{name(page)}:{line} shows nothing"
        runner.run(session, out=told.append, clear_globs=False)
        names.update(session.globs)
    assert runner.tries, f"{name(page)} has no worked example"
    assert not runner.failures, "".join(told)


TRY = """
from pathlib import Path
import csr_core
from csr_core.params import load_settings
from csr_core.stages.score import reward_tree
settings = load_settings(Path("params.yaml"), ["reward.likelihood=length_penalised"])
def row(node, parent, nats, tokens):
    return {"node": node, "parent": parent, "text": f"{node}.", "token_ids": [1] * tokens, "score": 0.0,
            "log_likelihood": nats, "relevance": None if parent is None else 25.0}
tree = [row(0, None, 0.0, 0), row(1, 0, -1.0, 1), row(2, 0, -2.0, 7)]
reward_tree(settings.reward, tree)
print(Path(csr_core.__file__).parent, *(f"{row['likelihood']:.3f}" for row in tree[1:]))
"""


def test_the_new_reward_of_the_docs_goes_into_the_code(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "csr_core", tmp_path / "csr_core", ignore=shutil.ignore_patterns("weights", "__pycache__"))
    shutil.copy(ROOT / "params.yaml", tmp_path)
    [(_, diff)] = blocks(DOCS / "changing-the-reward.md", "diff")
    subprocess.run(["git", "apply", "-"], cwd=tmp_path, input=diff, text=True, check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", TRY], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(tmp_path / "csr_core"), "0.368", "0.368"]
