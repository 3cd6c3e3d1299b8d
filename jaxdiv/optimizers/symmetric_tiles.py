"""Tiles of a symmetric result: which there are, in which order, and how large on which kernel."""

from typing import NamedTuple

import numpy as np


class TritonTiles(NamedTuple):
    """A program computes ``rows`` by ``columns`` entries in steps of ``depth``; one side is a multiple of the other."""

    rows: int = 128
    columns: int = 128
    depth: int = 64
    num_warps: int = 8
    num_stages: int = 3


class MosaicTiles(NamedTuple):
    """Two warpgroups compute ``rows`` by ``columns`` entries each, one below the other, in steps of ``depth``."""

    rows: int = 128
    columns: int = 128
    depth: int = 64
    num_stages: int = 4


def lower_tiles(n: int, rows: int, columns: int) -> np.ndarray:
    """The (row, column) numbers of the tiles of an n by n matrix in its lower triangle of square blocks, row by row.

    A block has the larger side of a tile. Tiles that follow each other share their rows, which stay in the cache.

    >>> lower_tiles(256, 128, 128).tolist()
    [[0, 0], [1, 0], [1, 1]]
    """
    block = max(rows, columns)
    i, j = np.indices((-(-n // rows), -(-n // columns)))
    lower = i * rows // block >= j * columns // block
    return np.stack([i[lower], j[lower]], axis=-1).astype(np.int32)


def choose_tiles(batch: int, n: int, depth: int) -> TritonTiles | MosaicTiles | None:
    """What is fastest on an H200 for ``batch`` products ``[n, depth] [depth, n]``; None for XLA's full product."""
    del batch, n, depth
    return None
