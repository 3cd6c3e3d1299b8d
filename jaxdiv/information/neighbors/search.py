"""The k nearest neighbours under a maximum over spaces."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_integer, fail
from jaxdiv.information.arguments import label_array, paired_samples
from jaxdiv.information.neighbors.pairs import (
    check_search,
    default_tile,
    fold_strides,
    joint_distances,
    map_tiles,
    strides,
)
from jaxdiv.typing import Array


class Neighbors(NamedTuple):
    """The k nearest other points of each point."""

    distances: Array
    """[N, k] ascending."""
    indices: Array
    """[N, k] int32, rows of the data."""


def _passes(values: Array, k: int) -> Array:
    """Positions of the k smallest entries of each row, ascending, the earlier first at ties: k passes."""
    positions = jnp.arange(values.shape[1], dtype=jnp.int32)
    # Held back from fusion: the passes would otherwise repeat the arithmetic behind the values.
    values = jax.lax.optimization_barrier(values)
    found = [jnp.argmin(values, axis=1).astype(jnp.int32)]
    for _ in range(k - 1):
        values = jnp.where(positions == found[-1][:, None], jnp.inf, values)
        found.append(jnp.argmin(values, axis=1).astype(jnp.int32))
    return jnp.stack(found, axis=1)


def smallest(values: Array, k: int) -> Array:
    """Positions of the k smallest entries of each row, ascending and never one twice; infinity is the largest number.

    Long rows are dealt into groups: the k smallest lie in the k groups of the smallest minima.
    """
    rows, width = values.shape
    values = jnp.minimum(values, jnp.finfo(values.dtype).max)  # what is taken becomes infinite, so is not taken again
    depth = round((width / k) ** 0.5)
    if depth < 3:
        return _passes(values, k)
    size = -(-width // depth)
    filled = jnp.pad(values, ((0, 0), (0, size * depth - width)), constant_values=jnp.inf)
    groups = _passes(jnp.min(filled.reshape(rows, depth, size), axis=1), k)
    positions = (groups[:, :, None] + size * jnp.arange(depth, dtype=jnp.int32)).reshape(rows, -1)
    chosen = _passes(jnp.take_along_axis(filled, positions, 1), k)
    return jnp.take_along_axis(positions, chosen, 1)


def space_list(function: str, spaces: Any) -> tuple[Array, ...]:
    """The spaces as matrices of equal rows and one dtype."""
    if not isinstance(spaces, Sequence) or isinstance(spaces, str | bytes) or not spaces:
        raise fail(function, "spaces", f"is {type(spaces).__name__}", "a non-empty sequence of arrays [N, d]")
    return paired_samples(function, **{f"spaces[{i}]": space for i, space in enumerate(spaces)})


def search_all(spaces: Sequence[Array], labels: Array | None, k: int, norm: str, tile: int | None) -> Neighbors:
    """Every pair is looked at once; the k + 1 nearest groups of points then once more.

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

    tile = tile or default_tile(width)
    marks = jnp.zeros(count, jnp.int32) if labels is None else labels
    return map_tiles(nearest, (tuple(spaces), jnp.arange(count, dtype=jnp.int32), marks), tile)


def find_neighbors(
    spaces: Sequence[Any],
    *,
    k: int,
    norm: str = "chebyshev",
    tile: int | None = None,
    labels: Any = None,
) -> Neighbors:
    r"""The k nearest other points of each point, at the distance max_s |a_s - b_s| over the spaces s.

    Distances come from differences, never from products, so duplicates are at distance exactly 0. Which of several
    points at equal distance is named is not specified; the distances are.

    Args:
        spaces: arrays [N, d_s] (or [N]) of one N; a single space gives plain neighbours.
        k: from 1 to N - 1.
        norm: "chebyshev" or "euclidean", within each space.
        tile: rows in work at once; memory is O(tile (sqrt(k N) d + k)) beside the data. None chooses.
        labels: [N] integers; only points with the label of a point are its neighbours. Where there are fewer than k,
            the missing distances are infinite and their indices mean nothing.

    Returns:
        `Neighbors` of distances [N, k] ascending, float32 (float64 where an input is), and indices [N, k] int32. All
        distances are NaN where an entry of the data is not finite. No derivative: the inputs are stopped.

    Raises:
        ValueError: wrong shapes, dtypes, norm, or k >= N.

    >>> found = find_neighbors([jnp.array([0.0, 1.0, 4.0]), jnp.array([0.0, 3.0, 3.0])], k=1)
    >>> found.distances[:, 0].tolist(), found.indices[:, 0].tolist()
    ([3.0, 3.0, 3.0], [1, 0, 1])
    """
    function = "find_neighbors"
    data = jax.lax.stop_gradient(space_list(function, spaces))
    count = data[0].shape[0]
    check_search(function, norm, tile)
    check_integer(function, "k", k, 1)
    if k >= count:
        raise fail(function, "spaces", f"have {count} rows", f"more than k = {k}")
    marks = None if labels is None else label_array(function, "labels", labels, count)
    if norm == "chebyshev":
        data = (jnp.concatenate(data, axis=1),)
    found = search_all(data, marks, int(k), norm, tile)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(space)) for space in data]))
    return found._replace(distances=jnp.where(finite, found.distances, jnp.nan))
