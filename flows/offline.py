"""Imported by Prefect's server as one of its collections: keeps it from asking GitHub for the list of worker types.

`prefect work-pool create` makes the server do so, and Prefect 3.8 has no setting for it. Where the address does not
answer it takes the list it ships, so an address that never answers is put in its place.
"""

from __future__ import annotations

import sys

server = sys.modules.get("prefect.server.api.collections")
views = getattr(server, "KNOWN_VIEWS", None)  # another version may have none
if isinstance(views, dict):
    views.update(dict.fromkeys(views, "shipped:"))
