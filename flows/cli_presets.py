"""`csr presets`: the names that `csr init --preset` takes."""

from __future__ import annotations


def presets() -> None:
    """List the presets: three methods, and whole settings files for real models."""
    from csr_core.presets import about_presets

    lines = about_presets()
    width = max(map(len, lines))
    for name, line in lines.items():
        print(f"{name:<{width}}  {line}")
