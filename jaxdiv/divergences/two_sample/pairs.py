"""All pairs of two sets of vectors: their squared distances, and maps over blocks of rows that bound the memory."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.numerics import runs_triton

_UNROLL = 32


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def squared_distances(x: jax.Array, y: jax.Array, method: str = "direct") -> jax.Array:
    r"""All squared Euclidean distances |x_i - y_j|^2, in full float32 on every device.

    "direct" adds the squares of the differences: d rounding units of relative error at any distance, 0 for duplicates.
    "expansion" is |x|^2 + |y|^2 - 2 x.y with the product at precision "highest": several times faster, but its error is
    a few rounding units of |x|^2 + |y|^2, so it wants centred data and blurs pairs much closer than the data is
    wide. Below zero it is set to zero. Derivatives are 2 (x - y) as products of data centred at y's mean, for either.

    Args:
        x: [n, d].
        y: [m, d], the same dtype.
        method: "direct" or "expansion".

    Returns:
        [n, m], the dtype of the inputs, at least 0.

    >>> squared_distances(jnp.array([[0.0, 1.0]]), jnp.array([[0.0, 1.0], [3.0, 5.0]])).tolist()
    [[0.0, 25.0]]
    """
    if method == "expansion":
        dots = jnp.matmul(x, y.T, precision="highest")
        return jnp.maximum(jnp.sum(x * x, axis=1)[:, None] + jnp.sum(y * y, axis=1) - 2.0 * dots, 0.0)

    if runs_triton((x, y)) and x.dtype == y.dtype == jnp.float32:
        from jaxdiv.divergences.two_sample.pairs_kernel import tiled_squared_distances  # Pallas: half a second

        return tiled_squared_distances(x, y)

    def add(total, columns):
        left, right = columns
        return total + jnp.square(left[:, None] - right), None

    # One feature at a time, unrolled: the loop's body fuses into one pass over the block, never [n, m, d].
    first = jnp.square(x[:, :1] - y[:, 0])
    return jax.lax.scan(add, first, (x.T[1:], y.T[1:]), unroll=max(1, min(_UNROLL, x.shape[1] - 1)))[0]


@squared_distances.defjvp
def _squared_distances_jvp(method, primals, tangents):
    (x, y), (dx, dy) = primals, tangents
    # Differences stay; the sums of products need not cancel how far the data is from 0.
    center = jax.lax.stop_gradient(jnp.mean(y, axis=0))
    center = jnp.where(jnp.isfinite(center), center, 0.0)
    x, y = x - center, y - center
    rows = jnp.sum(x * dx, axis=1)[:, None] + jnp.sum(y * dy, axis=1)
    crossed = jnp.matmul(dx, y.T, precision="highest") + jnp.matmul(x, dy.T, precision="highest")
    return squared_distances(*primals, method), 2.0 * (rows - crossed)


def map_rows(fn: Callable[..., Any], *arrays: jax.Array, chunk_size: int) -> Any:
    """fn(block of each array's rows, their numbers) for all rows, a block at a time; results are joined along rows.

    Blocks have equal size, the last one filled up with zeros whose results are cut off. Reverse mode computes each
    block again instead of keeping it.

    >>> map_rows(lambda x, index: 10 * x + index, jnp.arange(3.0), chunk_size=2).tolist()
    [0.0, 11.0, 22.0]
    """
    count = arrays[0].shape[0]
    num_blocks = -(-count // chunk_size)
    if num_blocks == 1:
        return fn(*arrays, jnp.arange(count))
    size = -(-count // num_blocks)

    def blocks(array):
        filled = jnp.pad(array, ((0, size * num_blocks - count),) + ((0, 0),) * (array.ndim - 1))
        return filled.reshape(num_blocks, size, *array.shape[1:])

    stacked = jax.tree.map(blocks, (*arrays, jnp.arange(count)))
    out = jax.lax.map(jax.checkpoint(lambda block: fn(*block)), stacked)
    return jax.tree.map(lambda value: value.reshape(size * num_blocks, *value.shape[2:])[:count], out)


def strided(x: jax.Array, size: int) -> jax.Array:
    """At most ``size`` rows at even distances, the first among them.

    >>> strided(jnp.arange(7), 3).tolist()
    [0, 2, 4]
    """
    count = x.shape[0]
    return x if count <= size else x[jnp.arange(size) * (count // size)]
