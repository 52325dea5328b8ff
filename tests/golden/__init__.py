"""Comparison with golden outputs of the authors' published code: `python -m tests.golden DIR`."""
