"""Benchmarks and statistics: CHAIR, POPE, the truncation control, companion priors, bootstrap intervals."""
