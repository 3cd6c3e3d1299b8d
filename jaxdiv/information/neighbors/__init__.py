"""Exact nearest neighbours and counts within a radius, in memory bounded by a tile."""

from jaxdiv.information.neighbors.all_pairs import Neighbors
from jaxdiv.information.neighbors.counts import count_within
from jaxdiv.information.neighbors.search import find_neighbors

__all__ = [
    "Neighbors",
    "count_within",
    "find_neighbors",
]
