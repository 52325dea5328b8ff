"""What MkDocs is told beyond `mkdocs.yml`."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
_FENCE = re.compile(r"^(```.*?^```)", re.S | re.M)


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Links to files of the repository outside `docs/`, which the site does not hold, become their text.

    One whose file is not there stays, and `strict` then ends the build.
    """
    docs = Path(config["docs_dir"])
    folder = docs / PurePosixPath(page.file.src_uri).parent

    def text_alone(found: re.Match[str]) -> str:
        target = (folder / found[2]).resolve()
        outside = "://" not in found[2] and target.exists() and not target.is_relative_to(docs.resolve())
        return found[1] if outside else found[0]

    parts = _FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _LINK.sub(text_alone, part) for part in parts)
