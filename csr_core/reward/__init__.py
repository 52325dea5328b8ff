"""The reward of a sentence: the policy's own likelihood, calibrated by what the picture shows."""

from csr_core.reward.cleaning import clean_sentence
from csr_core.reward.ranks import combined_rank, sibling_ranks, tolerant_order
from csr_core.reward.relevance import Embedder, image_relevance, load_relevance
from csr_core.reward.scorer import SentenceScorer

__all__ = [
    "Embedder",
    "SentenceScorer",
    "clean_sentence",
    "combined_rank",
    "image_relevance",
    "load_relevance",
    "sibling_ranks",
    "tolerant_order",
]
