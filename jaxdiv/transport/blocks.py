"""Reductions over the rows of a cost, stored or made block by block, and the fixed-point loop around them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiv.transport.cost import PointCost
from jaxdiv.typing import Array

Cost = Array | PointCost
Potentials = tuple[Array, ...]


def transposed(cost: Cost) -> Cost:
    """The cost with rows and columns exchanged."""
    return cost.transposed if isinstance(cost, PointCost) else jnp.swapaxes(cost, -1, -2)


def map_rows(fn: Callable[..., Array], cost: Cost, *rows: Array) -> Array:
    """``fn(block [..., c, m], *[..., c]) -> [..., c]`` applied to blocks of rows, the results put together.

    A stored cost is one block. Otherwise each block is rematerialised in the backward pass, so that reverse mode, too,
    holds one block at a time.
    """
    if not isinstance(cost, PointCost):
        return fn(cost, *rows)
    num_rows = cost.shape[-2]
    size = min(cost.chunk_size, num_rows)
    num_blocks = -(-num_rows // size)

    def split(v: Array, axis: int) -> Array:
        """``[..., n, ...]`` to ``[blocks, ..., c, ...]``; the last block is filled up with copies of the last row."""
        axis += v.ndim
        widths = [(0, num_blocks * size - num_rows if i == axis else 0) for i in range(v.ndim)]
        v = jnp.pad(v, widths, mode="edge")
        return jnp.moveaxis(v.reshape(*v.shape[:axis], num_blocks, size, *v.shape[axis + 1 :]), axis, 0)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(block: tuple[Array, ...]) -> Array:
        x, *values = block
        return fn(cost.cost_fn(x, cost.y), *values)

    out = jax.lax.map(one, (split(cost.x, -2), *(split(v, -1) for v in rows)))
    out = jnp.moveaxis(out, 0, -2)
    return out.reshape(*out.shape[:-2], num_blocks * size)[..., :num_rows]


def softmin(cost: Cost, potential: Array, log_weight: Array, epsilon: Array) -> Array:
    """The potential of the rows that makes their marginal exact: -epsilon log sum_j w_j exp((g_j - C_ij) / epsilon).

    Columns of weight 0 (``log_weight`` -inf) do not enter, and rows of weight 0 get a finite value like any other.
    """

    def rows(block: Array) -> Array:
        exponent = (potential[..., None, :] - block) / epsilon + log_weight[..., None, :]
        return -epsilon * jax.nn.logsumexp(exponent, axis=-1)

    return map_rows(rows, cost)


def row_error(f: Array, exact: Array, log_a: Array, epsilon: Array) -> Array:
    """sum_i |sum_j P_ij - a_i| of the plan with potential ``f``, where ``exact`` is the softmin that would mend it.

    The row sums are a_i exp((f_i - exact_i) / epsilon), so the half-iteration that follows knows them for nothing.
    """
    present = log_a > -jnp.inf
    excess = jnp.where(present, jnp.abs(jnp.expm1(jnp.where(present, f - exact, 0.0) / epsilon)), 0.0)
    return jax.lax.stop_gradient(jnp.sum(jnp.exp(log_a) * excess, axis=-1))


def zeros_from(values: Array) -> Array:
    """Zeros (NaN where the data is NaN) that, in a `shard_map`, vary over the mesh as the data does.

    A loop's state has to start with the type it goes on with, and constants do not vary. A derivative of the data must
    not come in this way: it would be carried through the loop.
    """
    values = jax.lax.stop_gradient(values)
    return jnp.where(values == values, jnp.zeros_like(values), values)


def iterate(
    step: Callable[[Potentials, Array], tuple[Potentials, Array]],
    potentials: Potentials,
    epsilons: Array,
    *,
    tol: float | None,
    unroll: bool,
) -> tuple[Potentials, Array]:
    """Applies ``step(potentials, epsilon) -> (new, error of the old)`` once per epsilon and counts per problem.

    With ``tol`` a problem stands still once it met the tolerance at the last epsilon, and the loop ends when all do. It
    is one step ahead of what was measured. With ``unroll`` only the potentials are kept for the backward pass.
    """
    num_iters, batch = epsilons.shape[0], potentials[0].shape[:-1]
    if tol is None:

        def body(carry: Potentials, epsilon: Array) -> tuple[Potentials, None]:
            return step(carry, epsilon)[0], None

        body = jax.checkpoint(body, prevent_cse=False) if unroll else body
        return jax.lax.scan(body, potentials, epsilons)[0], jnp.full(batch, num_iters, jnp.int32)

    def running(state: tuple) -> Array:
        k, _, active, _ = state
        return (k < num_iters) & jnp.any(active)

    def masked(state: tuple) -> tuple:
        k, old, active, count = state
        epsilon = epsilons[k]
        new, error = step(old, epsilon)
        new = tuple(jnp.where(active[..., None], one, other) for one, other in zip(new, old, strict=True))
        return k + 1, new, active & ((error > tol) | (epsilon != epsilons[-1])), count + active

    start = potentials[0][..., 0] == potentials[0][..., 0]  # all True, and varying over a mesh as the data does
    _, potentials, _, count = jax.lax.while_loop(running, masked, (0, potentials, start, start.astype(jnp.int32) * 0))
    return potentials, count
