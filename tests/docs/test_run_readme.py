"""Every command of README.md is run (tables.py says what is different then)."""

import pytest

from tests.docs.commands import shell_blocks
from tests.docs.reader import Reader

PAGES = ["README.md"]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, reader: Reader) -> None:
    for block in shell_blocks(page):
        reader.runs(block)
