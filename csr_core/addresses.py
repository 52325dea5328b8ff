"""Addresses of servers, as they may be shown and stored."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def without_password(uri: str) -> str:
    """The address as it may be shown and stored: no user, password or query."""
    parts = urlsplit(uri)
    if not parts.netloc:
        return uri
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
