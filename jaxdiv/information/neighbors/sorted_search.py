"""The k nearest neighbours where features are few: most lie near in the order of one feature."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdiv.information.neighbors.all_pairs import Neighbors, tile_search
from jaxdiv.information.neighbors.pairs import default_tile, joint_distances
from jaxdiv.information.neighbors.selection import smallest
from jaxdiv.typing import Array

# Measured on a CPU, 1+1 and 2+1 dimensions, N from 2,000 to 64,000: a point within the reach costs as much as a dozen
# among all pairs, for its distance is kept and searched, and a reach of 0.9 to 1.25 times the cube's was best.
_COST = 12


def sorted_reach(count: int, num_features: int, k: int) -> int | None:
    """How many points on either side, in the order of one feature, to look at first; None where it would not pay.

    A cube that holds k of N uniform points has the fraction (k / N)^(1 / d) of the points within its side.

    >>> sorted_reach(16_000, 2, 3), sorted_reach(16_000, 8, 3)
    (220, None)
    """
    reach = math.ceil(count * (k / count) ** (1 / num_features))
    return reach if 2 * _COST * reach < count else None


def search_sorted(spaces: Sequence[Array], k: int, norm: str, tile: int | None, reach: int) -> Neighbors:
    """Neighbours among the ``reach`` points on either side; among all points for rows that need more.

    A point further along the first feature is at least as far as the gap to it, so a k-th neighbour nearer than the
    gaps to both ends of the window is the k-th among all points. The other rows are put in a queue and looked for as
    `search_all` does. Under `jax.vmap` the longest queue decides.
    """
    count = spaces[0].shape[0]
    order = jnp.argsort(spaces[0][:, 0]).astype(jnp.int32)
    size = min(tile or (64 if jax.default_backend() == "cpu" else 4096), count)
    blocks = -(-count // size)
    ends = ((0, 0), (reach + 1, reach + 1 + blocks * size - count))  # infinitely far, and so are the gaps to them
    placed = [jnp.pad(space[order].T, ends, constant_values=jnp.inf) for space in spaces]

    def near(start):
        pieces = [jax.lax.dynamic_slice_in_dim(space, start, size + 2 * reach + 2, 1) for space in placed]
        left = [piece[:, reach + 1 : reach + 1 + size].T[:, :, None] for piece in pieces]
        distances = joint_distances(left, [piece[None, :, 1:-1] for piece in pieces], norm)
        own = jnp.arange(size)[:, None] + reach
        distances = jnp.where(jnp.arange(size + 2 * reach) == own, jnp.inf, distances)
        chosen = smallest(distances, k)
        distances = jnp.take_along_axis(distances, chosen, 1)
        feature, first = left[0][:, 0, 0], pieces[0][0]
        gap = jnp.minimum(jnp.abs(feature - first[0]), jnp.abs(feature - first[-1]))
        return Neighbors(distances, order[jnp.clip(start - reach + chosen, 0, count - 1)]), distances[:, -1] < gap

    found, sure = jax.lax.map(near, size * jnp.arange(blocks))
    found, sure = jax.tree.map(lambda value: value.reshape(-1, *value.shape[2:])[:count], (found, sure))
    found, sure = jax.tree.map(lambda value: jnp.zeros_like(value).at[order].set(value), (found, sure))

    nearest, width = tile_search(spaces, None, k, norm)
    size = min(tile or default_tile(width), count)
    queue = jnp.pad(jnp.argsort(sure).astype(jnp.int32), (0, size), mode="edge")
    pending = jnp.sum(~sure)

    def step(carry):
        done, found = carry
        rows = jax.lax.dynamic_slice_in_dim(queue, done, size)
        more = nearest((tuple(space[rows] for space in spaces), rows, jnp.zeros_like(rows)))
        return done + size, jax.tree.map(lambda old, new: old.at[rows].set(new), found, more)

    return jax.lax.while_loop(lambda carry: carry[0] < pending, step, (jnp.zeros((), jnp.int32), found))[1]
