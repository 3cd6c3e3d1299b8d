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
    """What is fastest on an H200 for ``batch`` products ``[n, depth] [depth, n]``; None for XLA's full product.

    Measured (`benchmarks.symmetric_products`): 1.3 to 1.8 times XLA's products from sides of 768 on. Below 1,024 the
    half millisecond a step that this saves does not pay for the seconds in which the kernels are traced.

    >>> choose_tiles(96, 2048, 2048), choose_tiles(48, 768, 768)
    (MosaicTiles(rows=64, columns=128, depth=64, num_stages=6), None)
    """
    fits = n % 128 == 0 and depth % 64 == 0 and n >= 1024
    blocks = n // 128
    # Two tiles for each of the 132 multiprocessors at least; fewer were not measured.
    return MosaicTiles(64, 128, 64, 6) if fits and batch * blocks * (blocks + 1) // 2 >= 264 else None
