"""The Monge gap of a map: what it costs more than the best coupling of its input with its output."""

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_same_shape
from jaxdiv.transport.cost import CostFn, cost_between, points, sqeuclidean
from jaxdiv.transport.solver import entropic_cost, sinkhorn, strengths
from jaxdiv.typing import Array, ArrayLike


def monge_gap(
    samples: ArrayLike,
    mapped: ArrayLike,
    *,
    epsilon: ArrayLike,
    cost_fn: CostFn = sqeuclidean,
    num_iters: int = 100,
    tol: float | None = None,
    chunk_size: int | None = None,
    unroll: bool = False,
) -> Array:
    r"""``(1/n) sum_i c(x_i, T(x_i)) - W(x, T(x))``, W the `entropic_cost` between the samples and their images.

    For epsilon to 0 it is 0 exactly where T is an optimal map between the two samples, and positive elsewhere. As a
    penalty beside a fitting loss it makes a network an optimal transport map for any cost, with no convex potential.

    The entropy is that of the whole plan, so the value has an offset: the pairing i with i is a coupling of entropy
    ``log n``, hence the gap is at least ``epsilon log n`` (and at most ``2 epsilon log n`` for an optimal map). The
    offset carries no gradient; subtract it to compare different n or epsilon. Too few iterations can only raise the
    value.

    Derivatives: through both terms, in samples and images, the second by the envelope theorem; second derivatives need
    ``unroll=True``. See `sinkhorn`.

    Args:
        samples: ``x`` ``[..., n, d]``, floating.
        mapped: ``T(x)``, row by row, of the same shape.
        epsilon: entropic strength, in the cost's units: a positive number or a schedule ``[num_iters]``.
        cost_fn: cost between points, such as `sqeuclidean`, `l1`, `cosine`.
        num_iters: iterations of the transport problem, or the most there are.
        tol: marginal error at which it stops; None does all iterations.
        chunk_size: rows of the cost that are made at a time; None stores the matrix.
        unroll: differentiate the iterations.

    Returns:
        ``[...]``, one value per set of samples, float32 (float64 if an input is).

    Raises:
        ValueError: wrong dtype, rank or shape, an empty axis, a parameter out of range, ``tol`` with ``unroll``.

    >>> x = jnp.array([[0.0], [1.0]])
    >>> gap = [monge_gap(x, y, epsilon=0.01) - 0.01 * jnp.log(2.0) for y in (x + 3.0, 1.0 - x)]
    >>> [round(float(value), 4) for value in gap]  # a shift is optimal, exchanging the points costs 1 too much
    [0.0, 1.0]

    Source: Uscidda and Cuturi, "The Monge gap: a regularizer to learn all transport maps", arXiv 2302.04953,
    equation 8.
    """
    function = "monge_gap"
    x, y = points(function, samples=samples, mapped=mapped)
    check_same_shape(function, samples=x, mapped=y)
    epsilons = strengths(function, epsilon, num_iters, tol, unroll)
    cost = cost_between(function, x, y, cost_fn, chunk_size)

    def pair_cost(a: Array, b: Array) -> Array:  # mapped: the function sees points of the rank that it was checked with
        return cost_fn(a[..., None, :], b[..., None, :])[..., 0, 0]

    paired = jax.vmap(pair_cost, in_axes=-2, out_axes=-1)(x, y)
    result = sinkhorn(cost, epsilon=epsilons, num_iters=num_iters, tol=tol, unroll=unroll)
    return jnp.mean(paired, axis=-1) - entropic_cost(result, cost)
