"""The k smallest entries of rows, by passes of a minimum: a CPU vectorises them, where `jax.lax.top_k` sorts."""

import jax
import jax.numpy as jnp

from jaxdiv.typing import Array


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
