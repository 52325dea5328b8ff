"""What `csr check` tells, a line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of `csr check`; `ok` is False where the run would fail, `note` is True for what is good to know."""

    ok: bool
    what: str
    detail: str
    note: bool = False

    def __str__(self) -> str:
        mark = "FAIL" if not self.ok else "note" if self.note else "ok"
        return f"{mark:5} {self.what}: {self.detail}"


def verdict(findings: Sequence[Finding]) -> str:
    """The line that `csr check` ends with."""
    checks = [one for one in findings if not one.note]
    failed = sum(not one.ok for one in checks)
    if failed:
        return f"{failed} of {len(checks)} failed: mend {'these' if failed > 1 else 'this'} first"
    return f"all {len(checks)} checks passed: csr run is next"
