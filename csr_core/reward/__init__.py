"""The reward of a sentence: the policy's own likelihood, calibrated by what the picture shows.

Nothing is imported here, so that the equations, which need no torch, can be had without it.
"""
