"""``alpha x y^T + beta e + d I`` with a symmetric result, in Triton: tiles on and below the diagonal, written twice."""

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from jaxdiv.optimizers.symmetric_tiles import TritonTiles, lower_tiles
from jaxdiv.typing import Array


def triton_product(
    x: Array,
    y: Array,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    addend: Array | None = None,
    diagonal: float = 0.0,
    tiles: TritonTiles,
    interpret: bool = False,
) -> Array:
    """The product of ``[B, n, k]`` and ``[B, n, k]`` contracted over k, plus ``beta`` times ``[B, n, n]``, plus
    ``diagonal`` times the identity: ``[B, n, n]``.

    What is above the diagonal is a copy of what is below, so the product and the addend have to be symmetric. Sums are
    in float32; the result has x's dtype.
    """
    batch, n, k = x.shape
    order = jnp.asarray(lower_tiles(n, tiles.rows, tiles.columns))
    arrays = (order, x, y) if addend is None else (order, x, y, addend)
    return pl.pallas_call(
        functools.partial(_kernel, tiles=tiles, alpha=alpha, beta=beta, diagonal=diagonal),
        grid=(order.shape[0], batch),
        out_shape=jax.ShapeDtypeStruct((batch, n, n), x.dtype),
        compiler_params=None
        if interpret
        else plgpu.CompilerParams(num_warps=tiles.num_warps, num_stages=tiles.num_stages),
        interpret=interpret,
        name="symmetric_product",
    )(*arrays)


def _kernel(order_ref, x_ref, y_ref, *refs, tiles, alpha, beta, diagonal):
    out_ref = refs[-1]
    n, depth = x_ref.shape[1:]
    which, batch = pl.program_id(0), pl.program_id(1)
    # Numbers of tiles, not of entries: the compiler sees that offsets are multiples of the tile.
    row, column = order_ref[which, 0] * tiles.rows, order_ref[which, 1] * tiles.columns
    rows, columns = pl.ds(row, tiles.rows), pl.ds(column, tiles.columns)
    row_mask = _inside(row, tiles.rows, n)
    column_mask = _inside(column, tiles.columns, n)

    def load(ref, here, mask, start):
        depth_mask = _inside(start, tiles.depth, depth)
        return _load(ref.at[batch, here, pl.ds(start, tiles.depth)], _outer(mask, depth_mask))

    def step(i, total):
        start = i * tiles.depth
        left, right = load(x_ref, rows, row_mask, start), load(y_ref, columns, column_mask, start)
        return total + jnp.dot(left, right.T, preferred_element_type=jnp.float32)

    zeros = jnp.zeros((tiles.rows, tiles.columns), jnp.float32)
    total = alpha * jax.lax.fori_loop(0, pl.cdiv(depth, tiles.depth), step, zeros)
    mask = _outer(row_mask, column_mask)
    if len(refs) == 2:
        total += beta * _load(refs[0].at[batch, rows, columns], mask).astype(jnp.float32)
    if diagonal != 0.0:  # before the result is rounded, once
        on_it = (row + jnp.arange(tiles.rows))[:, None] == (column + jnp.arange(tiles.columns))[None, :]
        total += jnp.where(on_it, diagonal, 0.0)
    total = total.astype(out_ref.dtype)
    plgpu.store(out_ref.at[batch, rows, columns], total, mask=mask)

    # A square block across the diagonal is computed whole; only what lies below it is needed on the other side.
    block = max(tiles.rows, tiles.columns)

    @pl.when(row // block > column // block)
    def _():
        plgpu.store(out_ref.at[batch, columns, rows], total.T, mask=None if mask is None else mask.T)


def _inside(start, size, limit):
    """Which of the entries from start exist; None where all of every tile do."""
    return None if limit % size == 0 else start + jnp.arange(size) < limit


def _outer(row_mask, column_mask):
    if row_mask is None:
        return None if column_mask is None else column_mask[None, :]
    return row_mask[:, None] if column_mask is None else row_mask[:, None] & column_mask[None, :]


def _load(ref, mask):
    return plgpu.load(ref) if mask is None else plgpu.load(ref, mask=mask, other=0.0)
