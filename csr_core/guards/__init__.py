"""Watching a run for the ways in which self-rewarding goes wrong: each a number, a threshold and a sentence."""

from csr_core.guards.evidence import Evidence, read_evidence
from csr_core.guards.readings import GUARDS, Reading, readings

__all__ = ["GUARDS", "Evidence", "Reading", "read_evidence", "readings"]
