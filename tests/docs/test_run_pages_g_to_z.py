"""Every command of the pages in docs/ from g on is run (tables.py says what is different then)."""

import pytest

from tests.docs.commands import pages, shell_blocks
from tests.docs.reader import Reader

PAGES = [page for page in pages() if page >= "docs/g" and shell_blocks(page)]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("page", PAGES)
def test_page(page: str, reader: Reader) -> None:
    for block in shell_blocks(page):
        reader.runs(block)
