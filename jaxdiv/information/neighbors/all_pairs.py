"""The k nearest neighbours under a maximum over spaces, among all pairs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxdiv.information.neighbors.pairs import default_tile, fold_strides, joint_distances, map_tiles, strides
from jaxdiv.information.neighbors.selection import smallest
from jaxdiv.typing import Array


class Neighbors(NamedTuple):
    """The k nearest other points of each point."""

    distances: Array
    """[N, k] ascending."""
    indices: Array
    """[N, k] int32, rows of the data."""


def tile_search(
    spaces: Sequence[Array], labels: Array | None, k: int, norm: str
) -> tuple[Callable[[Any], Neighbors], int]:
    """(rows of every space, their numbers, their labels) -> `Neighbors` among all points; and the groups' number.

    Points are dealt into groups. Each of the k nearest others lies in one of the k + 1 groups with the smallest
    minima: any other group has k + 1 groups before it, each with a point as near, only one of which is the point
    itself. So the pass over all pairs keeps minima alone, and only a few candidates are sorted.
    """
    count = spaces[0].shape[0]
    # The square root would keep as many candidates as groups; a candidate costs more, being gathered.
    depth = max(1, round(0.5 * (count / (k + 1)) ** 0.5))
    width = max(-(-count // depth), k + 1)
    grouped = tuple(strides(space, width, jnp.inf) for space in spaces)  # [s, g, d]; filling is infinitely far
    columns: Any = tuple(jnp.swapaxes(space, 1, 2) for space in grouped)
    kinds = None if labels is None else strides(labels, width, 0)
    by_group = tuple(space.transpose(1, 2, 0) for space in grouped)  # [g, d, s]
    num_strides, num_features = grouped[0].shape[0], sum(space.shape[1] for space in spaces)

    def nearest(block):
        rows, own, mark = block
        left = tuple(row[:, :, None] for row in rows)

        def step(minima, column):
            points, kind = column
            found = joint_distances(left, tuple(point[None] for point in points), norm)
            if kind is not None:
                found = jnp.where(mark[:, None] == kind, found, jnp.inf)
            return jnp.minimum(minima, found)

        start = jnp.full((own.shape[0], width), jnp.inf, spaces[0].dtype)
        minima = fold_strides(step, start, (columns, kinds), num_features)
        groups = smallest(minima, k + 1)  # [tile, k + 1]
        index = (groups[:, :, None] + width * jnp.arange(num_strides, dtype=jnp.int32)).reshape(own.shape[0], -1)
        right = tuple(space[groups].swapaxes(1, 2).reshape(own.shape[0], space.shape[1], -1) for space in by_group)
        distances = joint_distances(left, right, norm)
        outside = index == own[:, None]
        if kinds is not None:
            outside |= kinds.T[groups].reshape(index.shape) != mark[:, None]
        # Filling has an index beyond the data and comes after points that are infinitely far for another reason.
        distances = jnp.where(outside | (index >= count), jnp.inf, distances)
        chosen = smallest(distances, k)
        return Neighbors(jnp.take_along_axis(distances, chosen, 1), jnp.take_along_axis(index, chosen, 1))

    return nearest, width


def search_all(spaces: Sequence[Array], labels: Array | None, k: int, norm: str, tile: int | None) -> Neighbors:
    """Every pair is looked at once, a tile of rows at a time."""
    count = spaces[0].shape[0]
    nearest, width = tile_search(spaces, labels, k, norm)
    marks = jnp.zeros(count, jnp.int32) if labels is None else labels
    rows = (tuple(spaces), jnp.arange(count, dtype=jnp.int32), marks)
    return map_tiles(nearest, rows, tile or default_tile(width))
