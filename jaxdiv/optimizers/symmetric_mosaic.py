"""``alpha x y^T + beta e + d I`` where the result is symmetric, for NVIDIA Hopper: bulk copies and warpgroup products.

Each of a fixed number of programs walks over tiles. One warpgroup fetches, two multiply, each its own half of the tile,
and write it straight and, below the diagonal, transposed as well.
"""

import functools
import inspect

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxdiv.optimizers.symmetric_tiles import MosaicTiles, lower_tiles
from jaxdiv.typing import Array

_PIECE = 64  # rows and columns that go through shared memory at a time on their way out
_INDEX = ((),) if "idx" in inspect.signature(plgpu.load).parameters else ()  # asked for by jax 0.10, refused by 0.12


# Compiled by itself: the steps of an iteration share what they have in common, and tracing takes a second.
@functools.partial(jax.jit, static_argnames=("alpha", "beta", "diagonal", "tiles", "num_programs"))
def mosaic_product(
    x: Array,
    y: Array,
    *,
    alpha: float = 1.0,
    beta: float = 0.0,
    addend: Array | None = None,
    diagonal: float = 0.0,
    tiles: MosaicTiles,
    num_programs: int,
) -> Array:
    """`triton_product` for shapes that the tiles divide, in 16 bits; ``num_programs`` is that of multiprocessors."""
    batch, n, _ = x.shape
    order = jnp.asarray(lower_tiles(n, 2 * tiles.rows, tiles.columns))
    arrays = (order, x, y) if addend is None else (order, x, y, addend)
    swizzle = (plgpu.TilingTransform((8, _PIECE)), plgpu.SwizzleTransform(128))
    run = plgpu.kernel(
        functools.partial(
            _kernel,
            tiles=tiles,
            alpha=alpha,
            beta=beta,
            diagonal=diagonal,
            has_addend=addend is not None,
            swizzle=swizzle,
        ),
        out_type=jax.ShapeDtypeStruct((batch, n, n), x.dtype),
        grid=(num_programs,),
        grid_names=("program",),
        num_threads=3,
        thread_name="warpgroup",
    )
    return run(*arrays)


def _kernel(order_ref, x_ref, y_ref, *refs, tiles, alpha, beta, diagonal, has_addend, swizzle):
    addend_ref, out_ref = refs if has_addend else (None, refs[0])
    batch, _, depth = x_ref.shape
    num_tiles = order_ref.shape[0]
    block = max(2 * tiles.rows, tiles.columns)

    def pipeline(body, context):
        return plgpu.emit_pipeline_warp_specialized(
            body,
            grid=(depth // tiles.depth,),
            memory_registers=40,
            in_specs=[
                plgpu.BlockSpec((2 * tiles.rows, tiles.depth), lambda k: (0, k), transforms=swizzle, delay_release=1),
                plgpu.BlockSpec((tiles.columns, tiles.depth), lambda k: (0, k), transforms=swizzle, delay_release=1),
            ],
            wg_axis="warpgroup",
            num_compute_wgs=2,
            max_concurrent_steps=tiles.num_stages,
            compute_context=context,
        )

    def ignore(*_, **__):
        pass

    @functools.partial(
        pl.run_scoped,
        allocations=pipeline(ignore, ignore).get_allocations(x_ref.at[0], y_ref.at[0]),
        out_smem=plgpu.SMEM((2, 2, _PIECE, _PIECE), out_ref.dtype, transforms=swizzle),
        collective_axes="warpgroup",
    )
    def _(allocations, out_smem):
        warpgroup = jax.lax.axis_index("warpgroup")

        @plgpu.nd_loop((batch, num_tiles), collective_axes="program")
        def _(info):
            index, which = info.index
            row, column = order_ref[which, 0] * (2 * tiles.rows), order_ref[which, 1] * tiles.columns
            below = row // block > column // block

            def context(run_pipeline):
                total = pl.run_scoped(
                    lambda ref: (run_pipeline(ref), ref[...])[1], plgpu.ACC((tiles.rows, tiles.columns), jnp.float32)
                )
                write(total)

            def write(total):
                first = row + warpgroup * tiles.rows
                for i in range(0, tiles.rows, _PIECE):
                    for j in range(0, tiles.columns, _PIECE):
                        here = pl.ds(first + i, _PIECE), pl.ds(column + j, _PIECE)
                        piece = total[i : i + _PIECE, j : j + _PIECE]
                        if alpha != 1.0:
                            piece = alpha * piece
                        if addend_ref is not None:
                            # From global memory into the registers that hold the product.
                            other = plgpu.load(
                                addend_ref.at[index].at[here], *_INDEX, layout=plgpu.Layout.WGMMA, optimized=False
                            )
                            piece += beta * other.astype(jnp.float32)
                        if diagonal != 0.0:  # before the result is rounded, once
                            rows, columns = (
                                plgpu.broadcasted_iota(jnp.int32, piece.shape, axis, layout=plgpu.Layout.WGMMA)
                                for axis in (0, 1)
                            )
                            piece += jnp.where(rows + (first + i) == columns + (column + j), diagonal, 0.0)
                        piece = piece.astype(out_ref.dtype)
                        straight, turned = out_smem.at[warpgroup, 0], out_smem.at[warpgroup, 1]
                        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
                        straight[...] = piece
                        plgpu.commit_smem()
                        plgpu.copy_smem_to_gmem(straight, out_ref.at[index].at[here])
                        plgpu.wait_smem_to_gmem(1, wait_read_only=True)
                        turned.transpose((1, 0))[...] = plgpu.layout_cast(piece, plgpu.Layout.WGMMA_TRANSPOSED)
                        plgpu.commit_smem()
                        plgpu.copy_smem_to_gmem(turned, out_ref.at[index].at[here[::-1]], predicate=below)

            def multiply(_, x_smem, y_smem, total_ref):
                mine = x_smem.at[pl.ds(warpgroup * tiles.rows, tiles.rows)]
                plgpu.wgmma(total_ref, mine, y_smem.transpose((1, 0)))
                plgpu.wgmma_wait(1)  # the copies into what this step reads are released one step later
                return total_ref

            pipeline(multiply, context)(
                x_ref.at[index].at[pl.ds(row, 2 * tiles.rows)],
                y_ref.at[index].at[pl.ds(column, tiles.columns)],
                allocations=allocations,
            )

    plgpu.wait_smem_to_gmem(0, wait_read_only=True)
