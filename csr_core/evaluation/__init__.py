"""Benchmarks and statistics: the paper's ten, a judge, the truncation control, priors, bootstrap intervals."""
