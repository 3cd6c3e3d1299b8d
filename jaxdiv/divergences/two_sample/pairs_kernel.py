"""Direct squared distances on a GPU: a tile of pairs per program, summed over the features in registers.

XLA writes partial sums over the features to memory; here each distance is written once.
"""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

_TILE = 64
_NUM_WARPS = 4


def tiled_squared_distances(x: jax.Array, y: jax.Array, *, tile: int = _TILE, interpret: bool = False) -> jax.Array:
    """sum_k (x_ik - y_jk)^2 of ``[n, d]`` and ``[m, d]`` float32 arrays as ``[n, m]``, d - 1 roundings at most.

    Args:
        x: [n, d].
        y: [m, d].
        tile: rows and columns per program, a power of two.
        interpret: run on the CPU, for tests.
    """
    (n, d), m = x.shape, y.shape[0]

    def kernel(x_ref, y_ref, out_ref):
        starts = pl.program_id(0) * tile, pl.program_id(1) * tile
        here = [pl.ds(start, tile) for start in starts]
        numbers = [start + jnp.arange(tile) for start in starts]

        def add(k, total):
            left = plgpu.load(x_ref.at[k, here[0]], mask=numbers[0] < n, other=0.0)
            right = plgpu.load(y_ref.at[k, here[1]], mask=numbers[1] < m, other=0.0)
            return total + jnp.square(left[:, None] - right[None, :])

        total = jax.lax.fori_loop(0, d, add, jnp.zeros((tile, tile), jnp.float32))
        inside = (numbers[0] < n)[:, None] & (numbers[1] < m)[None, :]
        plgpu.store(out_ref.at[here[0], here[1]], total, mask=inside)

    return pl.pallas_call(
        kernel,
        grid=(pl.cdiv(n, tile), pl.cdiv(m, tile)),
        out_shape=jax.ShapeDtypeStruct((n, m), jnp.float32),
        compiler_params=None if interpret else plgpu.CompilerParams(num_warps=_NUM_WARPS, num_stages=2),
        interpret=interpret,
        name="squared_distances",
    )(x.T, y.T)
