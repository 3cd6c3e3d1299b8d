"""Distances between the rows of a tile and all points, in exact differences, a column of the points at a time.

Points are laid out as [s, d, g]: s strides of g points, so that a pass over a tile is a loop over strides whose body is
elementwise in [tile, g]. It never writes the [tile, N] matrix, and compilers vectorise it on every device.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_choice, check_integer
from jaxdiv.numerics import runs_triton
from jaxdiv.typing import Array

NORMS = ("chebyshev", "euclidean")
_UNROLL = 8
_BODY = 16
_LONG = 64
# For the kernels on a GPU: more neighbours leave the registers, more features make long programs.
_MAX_NEIGHBORS, _MAX_FEATURES = 8, 64


def check_search(function: str, norm: Any, tile: Any) -> None:
    """The norm is known and the tile is one."""
    check_choice(function, "norm", norm, NORMS)
    check_tile(function, tile)


def check_tile(function: str, tile: Any) -> None:
    """A positive count of rows, or None."""
    if tile is not None:
        check_integer(function, "tile", tile, 1)


def space_distances(left: Array, right: Array, norm: str) -> Array:
    """Distances from differences of features along axis -2, ``[..., d, 1]`` against ``[..., d, g]``: ``[..., g]``.

    One feature is |a - b| in either norm. Every caller rounds in the same order, so equal pairs are at equal distances.
    """
    d = left.shape[-2]
    if d == 1:
        return jnp.abs(left[..., 0, :] - right[..., 0, :])
    first = jnp.zeros((), left.dtype)

    def combine(total, difference):
        if norm == "chebyshev":
            return jnp.maximum(total, jnp.abs(difference))
        # The maximum keeps a compiler from fusing square and sum into one rounding here and into two elsewhere.
        return total + jnp.maximum(difference * difference, first)

    if d <= _LONG:
        total = reduce(combine, [left[..., j, :] - right[..., j, :] for j in range(d)], first)
    else:
        shape = jnp.broadcast_shapes((*left.shape[:-2], left.shape[-1]), (*right.shape[:-2], right.shape[-1]))
        columns = (jnp.moveaxis(left, -2, 0), jnp.moveaxis(right, -2, 0))
        total, _ = jax.lax.scan(
            lambda total, pair: (combine(total, pair[0] - pair[1]), None),
            jnp.broadcast_to(first, shape),
            columns,
            unroll=_UNROLL,
        )
    return total if norm == "chebyshev" else jnp.sqrt(total)


def joint_distances(left: Sequence[Array], right: Sequence[Array], norm: str) -> Array:
    """The maximum of `space_distances` over the spaces."""
    return reduce(jnp.maximum, [space_distances(a, b, norm) for a, b in zip(left, right, strict=True)])


def strides(array: Array, size: int, fill: Any) -> Array:
    """``[N, ...]`` as ``[s, size, ...]``, filled up with ``fill``; point p is at ``[p // size, p % size]``."""
    count = -(-array.shape[0] // size)
    padding = ((0, count * size - array.shape[0]),) + ((0, 0),) * (array.ndim - 1)
    return jnp.pad(array, padding, constant_values=fill).reshape(count, size, *array.shape[1:])


def fold_strides(step: Callable[[Array, Any], Array], init: Array, columns: Any, num_features: int) -> Array:
    """step(carry, a stride of the columns) over all strides.

    The body of the loop takes the fewest strides with 16 features: with one stride fewer or more, XLA's loop on a CPU
    is not vectorised, and about 7 times slower (measured at 3 to 14 features).
    """
    unroll = -(-_BODY // num_features)
    return jax.lax.scan(lambda carry, column: (step(carry, column), None), init, columns, unroll=unroll)[0]


def map_tiles(fn: Callable[..., Any], arrays: Any, tile: int) -> Any:
    """fn(a tile of the rows of each array) for all rows, one tile at a time; results joined along rows."""
    count = jax.tree.leaves(arrays)[0].shape[0]
    size = -(-count // -(-count // min(tile, count)))  # tiles of equal size: the last one is nearly full
    out = jax.lax.map(fn, jax.tree.map(lambda array: strides(array, size, 0), arrays))
    return jax.tree.map(lambda value: value.reshape(-1, *value.shape[2:])[:count], out)


def default_tile(width: int) -> int:
    """Rows whose [tile, width] blocks stay in a CPU's cache, or keep an accelerator busy."""
    entries = 2**15 if jax.default_backend() == "cpu" else 2**24
    return max(8, entries // width)


def fits_kernels(data: Array, norm: str, k: int = 1) -> bool:
    """`kernels` does this call for points [N, d]: over several devices, XLA's passes follow the arrays' sharding."""
    fits = norm == "chebyshev" and data.dtype == jnp.float32
    return fits and data.shape[1] <= _MAX_FEATURES and k <= _MAX_NEIGHBORS and runs_triton(data)
