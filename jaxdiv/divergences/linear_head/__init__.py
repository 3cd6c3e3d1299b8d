"""Divergence of two language models at the vocabulary head, without the array of logits."""

from jaxdiv.divergences.linear_head.api import linear_head_divergence

__all__ = ["linear_head_divergence"]
