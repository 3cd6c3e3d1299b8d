"""Neighbours and counts under the maximum norm on a GPU: a tile of rows per program, all other points from its cache.

XLA's passes write a running array for every stride of points; here it stays in registers.
"""

import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxdiv.typing import Array

_ROWS, _COLUMNS = 32, 32  # of a tile; on an H100 eleven shapes lie within 40 %
_NUM_WARPS = 4


def _distances(data_ref, rows, numbers, columns, count):
    """|x_i - x_j| at its largest over the features, of a tile's rows and the columns from a number on."""
    index = columns + jnp.arange(_COLUMNS)
    total = jnp.zeros((_ROWS, _COLUMNS), jnp.float32)
    for feature, row in enumerate(rows):
        column = plgpu.load(
            data_ref.at[jnp.int32(feature), pl.ds(columns, _COLUMNS)], mask=index < count, other=jnp.inf
        )
        total = jnp.maximum(total, jnp.abs(row[:, None] - column[None, :]))
    return total, jnp.broadcast_to(index[None, :], total.shape)


def _tile_rows(data_ref, start, count):
    """The features of a tile's rows, and the rows' numbers."""
    numbers = start + jnp.arange(_ROWS)
    here = pl.ds(start, _ROWS)
    rows = [
        plgpu.load(data_ref.at[jnp.int32(j), here], mask=numbers < count, other=0.0) for j in range(data_ref.shape[0])
    ]
    return rows, numbers


def nearest(data: Array, k: int, *, interpret: bool = False) -> tuple[Array, Array]:
    """The k nearest other points of each point: distances ``[N, k]`` ascending, and their rows, int32.

    Every place of the tile keeps the k nearest of the columns that it has seen, in order; they are merged at the end.

    Args:
        data: ``[N, d]`` float32, finite.
        k: from 1 to N - 1.
        interpret: run on the CPU, for tests.
    """
    count, num_features = data.shape

    def kernel(data_ref, distance_ref, index_ref):
        start = pl.program_id(0) * _ROWS
        rows, numbers = _tile_rows(data_ref, start, count)

        def insert(step, best):
            new, place = _distances(data_ref, rows, numbers, step * _COLUMNS, count)
            new = jnp.where(place == numbers[:, None], jnp.inf, new)
            kept = []
            for old, source in zip(*best, strict=True):
                before = new < old
                kept.append((jnp.where(before, new, old), jnp.where(before, place, source)))
                new, place = jnp.where(before, old, new), jnp.where(before, source, place)
            return tuple(zip(*kept, strict=True))

        far = jnp.full((_ROWS, _COLUMNS), jnp.inf, jnp.float32)
        first = jnp.zeros((_ROWS, _COLUMNS), jnp.int32)
        best = jax.lax.fori_loop(0, math.ceil(count / _COLUMNS), insert, ((far,) * k, (first,) * k))
        distances, sources = list(best[0]), list(best[1])
        lane = jnp.broadcast_to(jnp.arange(_COLUMNS)[None, :], far.shape)
        for rank in range(k):
            least = jnp.min(distances[0], axis=1)
            chosen = jnp.min(jnp.where(distances[0] == least[:, None], lane, _COLUMNS), axis=1)
            taken = lane == chosen[:, None]
            source = jnp.max(jnp.where(taken, sources[0], 0), axis=1)
            plgpu.store(distance_ref.at[jnp.int32(rank), pl.ds(start, _ROWS)], least, mask=numbers < count)
            plgpu.store(index_ref.at[jnp.int32(rank), pl.ds(start, _ROWS)], source, mask=numbers < count)
            for j in range(k - 1 - rank):  # the place that gave its nearest moves on to its next
                distances[j] = jnp.where(taken, distances[j + 1], distances[j])
                sources[j] = jnp.where(taken, sources[j + 1], sources[j])
            distances[k - 1 - rank] = jnp.where(taken, jnp.inf, distances[k - 1 - rank])

    shape = (k, count)
    distances, index = pl.pallas_call(
        kernel,
        grid=(pl.cdiv(count, _ROWS),),
        out_shape=(jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape, jnp.int32)),
        compiler_params=None if interpret else plgpu.CompilerParams(num_warps=_NUM_WARPS, num_stages=2),
        interpret=interpret,
        name="nearest_neighbors",
    )(data.T)
    return distances.T, index.T


def count_others(data: Array, radius: Array, strict: bool, *, interpret: bool = False) -> Array:
    """How many other points are nearer than a point's radius (or as near): ``[N]`` int32.

    Args:
        data: ``[N, d]`` float32.
        radius: ``[N]`` float32.
        strict: distance < radius, otherwise distance <= radius.
        interpret: run on the CPU, for tests.
    """
    count = data.shape[0]

    def kernel(data_ref, radius_ref, out_ref):
        start = pl.program_id(0) * _ROWS
        rows, numbers = _tile_rows(data_ref, start, count)
        reach = plgpu.load(radius_ref.at[pl.ds(start, _ROWS)], mask=numbers < count, other=0.0)[:, None]

        def add(step, total):
            found, place = _distances(data_ref, rows, numbers, step * _COLUMNS, count)
            within = found < reach if strict else (found <= reach) & (place < count)  # filling is at infinity
            return total + jnp.where(within & (place != numbers[:, None]), 1, 0)

        total = jnp.zeros((_ROWS, _COLUMNS), jnp.int32)
        total = jax.lax.fori_loop(0, math.ceil(count / _COLUMNS), add, total)
        plgpu.store(out_ref.at[pl.ds(start, _ROWS)], jnp.sum(total, axis=1), mask=numbers < count)

    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(count, _ROWS),),
        out_shape=jax.ShapeDtypeStruct((count,), jnp.int32),
        compiler_params=None if interpret else plgpu.CompilerParams(num_warps=_NUM_WARPS, num_stages=2),
        interpret=interpret,
        name="count_neighbors",
    )(data.T, radius)
