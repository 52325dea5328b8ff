"""`python -m tests.docs.smaller [FILE] [KEY=VALUE ...]`: settings as a page has one write them, made small for a test.

Models that are not here become the shipped miniature; where the data comes from, and the method, stay as they are.
"""

import subprocess
import sys
from pathlib import Path

import yaml

from tests.e2e.conftest import SMALL

MODELS = [
    "model.path=miniature",
    "model.quantization=null",
    "model.prompt_template=null",
    "reward.model=miniature",
    "reward.allow_weak=true",  # it is refused for the pictures of the pages
    "evaluate.splits={test: {folder: 'miniature:test', count: 6}, shifted: {folder: 'miniature:shifted', count: 6}}",
    "evaluate.max_new_tokens=40",
    "evaluate.held_out_model=null",
]
SMALLER = [
    *MODELS,
    *(change for change in SMALL if not change.startswith(("iterations", "evaluate.splits"))),
    "data.per_iteration=6",
    "generate.shard_size=6",
]


def smaller(path: Path, changes: list[str]) -> None:
    """Change the settings in `path`; `dvc.yaml` beside a params.yaml is written anew."""
    tree = yaml.safe_load(path.read_text("utf-8"))
    for change in [*SMALLER, *changes]:
        key, _, value = change.partition("=")
        *sections, name = key.split(".")
        place = tree
        for section in sections:
            place = place[section]
        place[name] = yaml.safe_load(value)
    path.write_text(yaml.safe_dump(tree, sort_keys=False), "utf-8")
    if path.name == "params.yaml":
        subprocess.run([sys.executable, "-m", "csr_core.dvcfile"], cwd=path.parent, check=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    file = Path(given.pop(0)) if given and "=" not in given[0] else Path("params.yaml")
    smaller(file, given)
