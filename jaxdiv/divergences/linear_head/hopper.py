"""Both sides' logits from one kernel for NVIDIA Hopper, with their log-sum-exps, in four bytes a pair.

A program accumulates a tile of p's logits, writes them out rounded, and goes on from there to subtract q's, so that
what a divergence looks at, log p - log q, is a float32 sum that is rounded once and relative to itself: close models
lose nothing. Both log-sum-exps are those of the rounded logits: the probabilities sum to 1, as the small differences
that gradients are rely on. One warpgroup fetches, two multiply.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from jaxdiv.divergences.linear_head.blocks import TOKEN_TILE
from jaxdiv.divergences.linear_head.early import early_parts, num_early_parts
from jaxdiv.divergences.linear_head.fused import SHIFT, TILE, PackedLogits, can_overflow
from jaxdiv.divergences.linear_head.rows import Objective

_ROWS = TOKEN_TILE // 2  # of a warpgroup, of which two share what is fetched
_DEPTH = 64  # of the hidden states, a step
_LARGEST = 6e4  # float16 ends at 65,504


class Tiles(NamedTuple):
    """What a program computes at a time, `TOKEN_TILE` tokens by ``columns`` categories."""

    columns: int
    num_stages: int = 3
    cluster: int = 1
    """Programs that share what they fetch of the heads."""


def choose_tiles(tokens: int, vocab_size: int) -> Tiles:
    """The widest that divide the vocabulary.

    >>> choose_tiles(1024, 128_256)
    Tiles(columns=256, num_stages=3, cluster=2)
    >>> choose_tiles(128, 640)
    Tiles(columns=128, num_stages=5, cluster=1)
    """
    wide, cluster = vocab_size % (2 * TILE) == 0, 2 if tokens % (2 * TOKEN_TILE) == 0 else 1
    return Tiles(2 * TILE, num_stages=3, cluster=cluster) if wide else Tiles(TILE, num_stages=5, cluster=cluster)


def can_pack(objective: Objective, vocab_size: int, arrays: tuple[jax.Array, ...]) -> bool:
    """Whether the kernel does this; ``arrays`` are hidden states and head of p, then of q, and there is no bias."""
    p_hidden, p_head, q_hidden, q_head = arrays
    dtypes = {x.dtype for x in arrays}
    return (
        (dtypes == {jnp.dtype(jnp.bfloat16)} or dtypes == {jnp.dtype(jnp.float16)})
        and p_head.shape[0] == q_head.shape[0] == vocab_size
        and vocab_size % TILE == 0
        and p_hidden.shape[-1] % _DEPTH == q_hidden.shape[-1] % _DEPTH == 0
        and not can_overflow(objective)
        # The cross-entropy would need the logits without the temperature.
        and (objective.temperature == 1.0 or not objective.label_weight)
    )


# Compiled by itself: the blocks share it, and tracing takes a second.
@functools.partial(jax.jit, static_argnames=("objective", "num_programs", "tiles", "interpret"))
def packed_logits(
    p_hidden: jax.Array,
    p_head: jax.Array,
    q_hidden: jax.Array,
    q_head: jax.Array,
    *,
    objective: Objective,
    num_programs: int | None = None,
    tiles: Tiles | None = None,
    interpret: Any = None,
) -> PackedLogits:
    """`PackedLogits` of hidden states ``[tokens, width]`` and heads ``[categories, width]`` in one 16-bit dtype.

    Tokens and categories are multiples of 128, widths of 64; ``num_programs`` is the number of multiprocessors, by
    default the device's.
    """
    num_programs = num_programs or jax.devices()[0].core_count
    (tokens, _), categories = q_hidden.shape, q_head.shape[0]
    tiles = choose_tiles(tokens, categories) if tiles is None else tiles
    num_parts = 4 + num_early_parts(objective)

    def shared(*shape, dtype=q_hidden.dtype):
        return plgpu.SMEM(shape, dtype, transforms=(plgpu.TilingTransform((8, 64)), plgpu.SwizzleTransform(128)))

    barrier = functools.partial(plgpu.Barrier, num_barriers=tiles.num_stages)
    consumed = barrier(num_arrivals=2)
    if tiles.cluster > 1:
        consumed = plgpu.ClusterBarrier(num_arrivals=2, num_barriers=tiles.num_stages, collective_axes=("cluster",))
    run = plgpu.kernel(
        functools.partial(_kernel, objective=objective, tiles=tiles),
        out_type=(
            jax.ShapeDtypeStruct((tokens, categories), jnp.float16),
            jax.ShapeDtypeStruct((tokens, categories), jnp.float16),
            jax.ShapeDtypeStruct((num_parts, categories // TILE, tokens), jnp.float32),
        ),
        scratch_types=dict(
            hidden_smem=shared(tiles.num_stages, TOKEN_TILE, _DEPTH),
            head_smem=shared(tiles.num_stages, tiles.columns, _DEPTH),
            out_smem=shared(2, tiles.columns // TILE, _ROWS, TILE, dtype=jnp.float16),
            parts_smem=plgpu.SMEM((2, tiles.columns // TILE, num_parts, _ROWS), jnp.float32),
            filled=barrier(num_arrivals=2),
            consumed=consumed,
        ),
        grid=(num_programs // tiles.cluster,),
        grid_names=("program",),
        num_threads=3,
        thread_name="warpgroup",
        compiler_params=plgpu.CompilerParams(approx_math=True),
        cluster=(tiles.cluster,),
        cluster_names=("cluster",),
        **({} if interpret is None else {"interpret": interpret}),
    )
    return PackedLogits(*run(p_hidden, p_head, -q_hidden, q_head))


def _kernel(
    p_hidden_ref,
    p_head_ref,
    q_hidden_ref,
    q_head_ref,
    p_ref,
    difference_ref,
    parts_ref,
    *,
    objective,
    tiles,
    hidden_smem,
    head_smem,
    out_smem,
    parts_smem,
    filled,
    consumed,
):
    warpgroup, program, num_programs = lax.axis_index("warpgroup"), lax.axis_index("program"), lax.axis_size("program")
    member = lax.axis_index("cluster")
    sides = (p_hidden_ref, p_head_ref), (q_hidden_ref, q_head_ref)
    num_steps = [hidden_ref.shape[1] // _DEPTH for hidden_ref, _ in sides]
    # Tiles that are computed together share few rows of the heads, which so come from memory once.
    grid = p_ref.shape[1] // tiles.columns, p_ref.shape[0] // (TOKEN_TILE * tiles.cluster)

    def for_tiles(body):
        @plgpu.nd_loop(grid, collective_axes="program")
        def _(info):
            column, row = info.index
            row = (row * tiles.cluster + member) * TOKEN_TILE
            body(row, column * tiles.columns, info.local_index * sum(num_steps))

    def slot(step):
        return lax.rem(step, jnp.asarray(tiles.num_stages, step.dtype))

    @pl.when(warpgroup == 2)
    def _fetch():
        plgpu.set_max_registers(40, action="decrease")

        def fetch(row, column, start):
            for (hidden_ref, head_ref), count in zip(sides, num_steps, strict=True):

                @pl.loop(0, count)
                def _(k, start=start, hidden_ref=hidden_ref, head_ref=head_ref):
                    here = slot(start + k)

                    @pl.when(start + k >= tiles.num_stages)
                    def _():
                        plgpu.barrier_wait(consumed.at[here])

                    depth = pl.ds(k * _DEPTH, _DEPTH)
                    rows, columns = pl.ds(row, TOKEN_TILE), pl.ds(column, tiles.columns)
                    plgpu.copy_gmem_to_smem(hidden_ref.at[rows, depth], hidden_smem.at[here], filled.at[here])
                    plgpu.copy_gmem_to_smem(
                        head_ref.at[columns, depth],
                        head_smem.at[here],
                        filled.at[here],
                        collective_axes="cluster" if tiles.cluster > 1 else None,
                    )

                start += count

        for_tiles(fetch)
        num_tiles = lax.div(grid[0] * grid[1] + num_programs - 1 - program, num_programs)
        last = num_tiles * sum(num_steps) - 1  # nothing follows that would say it is done

        @pl.loop(jnp.maximum(last + 1 - tiles.num_stages, 0), last)
        def _(step):
            plgpu.barrier_wait(consumed.at[slot(step)])

    @pl.when(warpgroup < 2)
    def _multiply():
        plgpu.set_max_registers(232, action="increase")
        scale = 1.0 / objective.temperature

        def compute(row, column, start):
            first = row + warpgroup * _ROWS

            def products(total_ref, count, start):
                @pl.loop(0, count)
                def _(k):
                    step = start + k
                    here = slot(step)
                    plgpu.barrier_wait(filled.at[here])
                    mine = hidden_smem.at[here].at[pl.ds(warpgroup * _ROWS, _ROWS)]
                    plgpu.wgmma(total_ref, mine, head_smem.at[here].transpose((1, 0)))
                    plgpu.wgmma_wait(1)

                    @pl.when(step > 0)
                    def _():  # the products of the step before are done
                        plgpu.barrier_arrive(consumed.at[slot(step + tiles.num_stages - 1)])

            def halves(total):
                for i in range(tiles.columns // TILE):
                    part = total[:, i * TILE : (i + 1) * TILE]
                    yield i, out_smem.at[warpgroup, i], part if scale == 1.0 else scale * part

            def send(out_ref):
                plgpu.commit_smem()
                for i in range(tiles.columns // TILE):
                    there = out_ref.at[pl.ds(first, _ROWS), pl.ds(column + i * TILE, TILE)]
                    plgpu.copy_smem_to_gmem(out_smem.at[warpgroup, i], there)

            def write_p(total):
                tops = []
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                for i, smem, p in halves(total):
                    top = jnp.max(p, axis=1)
                    relative = p - lax.broadcast_in_dim(top - SHIFT, p.shape, (0,))
                    rounded = jnp.maximum(relative, -_LARGEST).astype(jnp.float16)
                    smem[...] = rounded
                    tops.append(top)
                    parts_smem[warpgroup, i, 0] = top
                    parts_smem[warpgroup, i, 1] = jnp.sum(jnp.exp(rounded.astype(jnp.float32) - SHIFT), axis=1)
                send(p_ref)
                return tops

            def write_difference(total, tops):
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                for i, smem, ratio in halves(total):
                    top_p = lax.broadcast_in_dim(tops[i], ratio.shape, (0,))
                    p = plgpu.layout_cast(smem[...], plgpu.Layout.WGMMA).astype(jnp.float32) + (top_p - SHIFT)
                    parts = [jnp.max(p - ratio, axis=1)]
                    top_q = lax.broadcast_in_dim(parts[0], p.shape, (0,))
                    difference = jnp.clip((top_p - top_q) - ratio, -_LARGEST, _LARGEST).astype(jnp.float16)
                    smem[...] = difference
                    q = p + ((top_q - top_p) + difference.astype(jnp.float32))
                    parts.append(jnp.sum(jnp.exp(q - top_q), axis=1))
                    parts += early_parts(objective, p, q, top_p, top_q, zeros=False)
                    for j, part in enumerate(parts):
                        parts_smem[warpgroup, i, 2 + j] = part
                send(difference_ref)
                for i in range(tiles.columns // TILE):
                    for j in range(parts_ref.shape[0]):
                        there = parts_ref.at[j, column // TILE + i, pl.ds(first, _ROWS)]
                        plgpu.copy_smem_to_gmem(parts_smem.at[warpgroup, i, j], there)

            def both(total_ref):
                products(total_ref, num_steps[0], start)
                tops = write_p(total_ref[...])
                products(total_ref, num_steps[1], start + num_steps[0])  # of -q: the total is log p - log q
                return total_ref[...], tops

            write_difference(*pl.run_scoped(both, plgpu.ACC((_ROWS, tiles.columns), jnp.float32)))

        for_tiles(compute)
        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
