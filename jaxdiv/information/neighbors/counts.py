"""How many other points lie within a radius of each point."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_batch, check_flag, floating_array
from jaxdiv.information.arguments import label_array, paired_samples
from jaxdiv.information.neighbors.pairs import (
    check_search,
    default_tile,
    fits_kernels,
    fold_strides,
    map_tiles,
    space_distances,
    strides,
)
from jaxdiv.typing import Array

_WIDTH = 512


def _count_sorted(x: Array, radius: Array, labels: Array | None, strict: bool) -> Array:
    """One feature: |x_i - x_j|, rounded, does not fall as j moves away, so its bounds are found by bisection."""
    count = x.shape[0]
    marks = jnp.zeros(count, jnp.int32) if labels is None else labels
    position = jnp.arange(count, dtype=jnp.int32)
    marks, ordered, source = jax.lax.sort((marks, x, position), num_keys=2)
    reach = radius[source]

    def inside(j):
        distance = jnp.abs(ordered - ordered[j])
        return (marks[j] == marks) & ((distance < reach) if strict else (distance <= reach))

    def bisect(sign, room):
        """The largest m <= room for which all of the next m points in a direction are inside."""

        def halve(_, bounds):
            low, high = bounds
            middle = (low + high + 1) // 2
            good = inside(jnp.clip(position + sign * middle, 0, count - 1)) | (middle == 0)
            return jnp.where(good, middle, low), jnp.where(good, high, middle - 1)

        return jax.lax.fori_loop(0, count.bit_length(), halve, (jnp.zeros_like(room), room))[0]

    total = bisect(1, count - 1 - position) + bisect(-1, position)
    return jnp.zeros(count, jnp.int32).at[source].set(total)


def _count_all(x: Array, radius: Array, labels: Array | None, norm: str, strict: bool, tile: int | None) -> Array:
    """Every pair is looked at once, and nothing but the counts is kept."""
    count = x.shape[0]
    width = min(_WIDTH if jax.default_backend() == "cpu" else 8 * _WIDTH, count)
    columns: Any = jnp.swapaxes(strides(x, width, jnp.nan), 1, 2)  # filling is within no radius
    kinds = None if labels is None else strides(labels, width, 0)

    def within(block):
        rows, reach, mark = block
        left, bound = rows[:, :, None], reach[:, None]

        def step(total, column):
            points, kind = column
            distance = space_distances(left, points[None], norm)
            hit = distance < bound if strict else distance <= bound
            if kind is not None:
                hit &= mark[:, None] == kind
            return total + hit

        found = fold_strides(step, jnp.zeros((rows.shape[0], width), jnp.int32), (columns, kinds), x.shape[1])
        return jnp.sum(found, axis=1, dtype=jnp.int32)

    marks = jnp.zeros(count, jnp.int32) if labels is None else labels
    total = map_tiles(within, (x, radius, marks), tile or default_tile(width))
    return total - ((radius > 0.0) if strict else (radius >= 0.0))  # the point itself


def count_within(
    x: Any,
    radius: Any,
    *,
    norm: str = "chebyshev",
    strict: bool = True,
    tile: int | None = None,
    labels: Any = None,
) -> Array:
    r"""For each point the number of other points at a distance below its radius, or at most its radius.

    Distances round as in `find_neighbors`. One feature is sorted: O(N log N). Several are compared pair by pair.

    Args:
        x: [N, d] floating, or [N].
        radius: [N] floating, one per point; infinity counts all.
        norm: "chebyshev" or "euclidean".
        strict: distance < radius, otherwise distance <= radius.
        tile: rows in work at once, which bounds the memory; None chooses.
        labels: [N] integers; only points with the label of a point count.

    Returns:
        [N] int32. No derivative. Where an entry of x or of the radius is not a number the counts mean nothing.

    Raises:
        ValueError: wrong shapes, dtypes or norm.

    >>> count_within(jnp.array([0.0, 1.0, 4.0]), jnp.array([1.0, 1.5, 4.0])).tolist()
    [0, 1, 1]
    >>> count_within(jnp.array([0.0, 1.0, 4.0]), jnp.array([1.0, 1.5, 4.0]), strict=False).tolist()
    [1, 1, 2]
    """
    function = "count_within"
    (x,) = jax.lax.stop_gradient(paired_samples(function, x=x))
    radius = jax.lax.stop_gradient(floating_array(function, "radius", radius))
    check_batch(function, "radius", radius, x.shape[0])
    check_search(function, norm, tile)
    check_flag(function, "strict", strict)
    marks = None if labels is None else label_array(function, "labels", labels, x.shape[0])
    radius = radius.astype(jnp.promote_types(x.dtype, radius.dtype))
    if x.shape[1] == 1:
        return _count_sorted(x[:, 0], radius, marks, strict)
    if marks is None and radius.dtype == x.dtype and fits_kernels(x, norm):
        from jaxdiv.information.neighbors.kernels import count_others  # Pallas: half a second

        return count_others(x, radius, strict)
    return _count_all(x, radius, marks, norm, strict, tile)
