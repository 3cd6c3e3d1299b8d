"""The Sinkhorn divergence between two weighted samples: entropic transport without its bias, never negative."""

import jax
import jax.numpy as jnp

from jaxdiv.numerics import vary_alike, vary_as
from jaxdiv.transport.blocks import Cost, iterate, row_error, softmin, zeros_from
from jaxdiv.transport.cost import CostFn, cost_between, points, sqeuclidean
from jaxdiv.transport.solver import SinkhornResult, log_weights, regularized_cost, sinkhorn, strengths
from jaxdiv.typing import Array, ArrayLike


def sinkhorn_divergence(
    *,
    p_samples: ArrayLike,
    q_samples: ArrayLike,
    epsilon: ArrayLike,
    p_log_weights: ArrayLike | None = None,
    q_log_weights: ArrayLike | None = None,
    cost_fn: CostFn = sqeuclidean,
    num_iters: int = 100,
    tol: float | None = None,
    chunk_size: int | None = None,
    unroll: bool = False,
) -> Array:
    r"""``S(p, q) = W(p, q) - W(p, p) / 2 - W(q, q) / 2`` with W the `regularized_cost` at one and the same epsilon.

    Symmetric, 0 for p = q, and between the transport cost (epsilon to 0) and half a squared MMD of kernel -C (epsilon
    to infinity).

    The two self-terms take the averaged update ``f <- (f + softmin f) / 2``, which converges in a few iterations, and
    the cross term starts from their potentials. With a constant epsilon this makes the value non-negative after any
    number of iterations, up to rounding, wherever ``exp(-C / epsilon)`` is a positive definite kernel (all costs of
    this package): at the start S is ``epsilon / 2`` times a squared kernel norm, and each half-iteration raises it.

    Derivatives: the envelope theorem's by default, exact at convergence, for samples, weights and epsilon; second
    derivatives need ``unroll=True``. See `sinkhorn`.

    Args:
        p_samples: points of p ``[..., n, d]``, floating.
        q_samples: points of q ``[..., m, d]``, same batch axes and d.
        epsilon: entropic strength, in the cost's units: a positive number or a schedule ``[num_iters]``.
        p_log_weights: logarithms of p's weights ``[..., n]``, total mass 1; -inf leaves a point out. None is uniform.
        q_log_weights: the same for q ``[..., m]``.
        cost_fn: symmetric cost between points, such as `sqeuclidean`, `l1`, `cosine`.
        num_iters: iterations of each of the three problems, or the most there are.
        tol: marginal error at which a problem stops; None does all iterations.
        chunk_size: rows of the cost that are made at a time; None stores the three matrices.
        unroll: differentiate the iterations.

    Returns:
        ``[...]``, one value per pair of samples, float32 (float64 if a sample is).

    Raises:
        ValueError: wrong dtype, rank or shape, an empty axis, a parameter out of range, ``tol`` with ``unroll``,
            log-weights of a mass above 1.

    >>> x, y = [[0.0], [1.0]], [[2.0], [3.0]]
    >>> round(float(sinkhorn_divergence(p_samples=x, q_samples=y, epsilon=0.5)), 4)  # a shift costs its square
    4.0

    Source: Genevay, Peyre and Cuturi, "Learning generative models with Sinkhorn divergences", arXiv 1706.00292;
    Feydy et al., "Interpolating between optimal transport and MMD using Sinkhorn divergences", arXiv 1810.08278,
    theorem 1 and equation 25.
    """
    function = "sinkhorn_divergence"
    x, y = points(function, p_samples=p_samples, q_samples=q_samples)
    epsilons = strengths(function, epsilon, num_iters, tol, unroll).astype(x.dtype)
    log_p = log_weights(function, "p_log_weights", p_log_weights, x.shape[:-1], x)
    log_q = log_weights(function, "q_log_weights", q_log_weights, y.shape[:-1], y)
    x, y = _kept(x, log_p), _kept(y, log_q)
    cost = cost_between(function, x, y, cost_fn, chunk_size)
    log_p, log_q = log_p.astype(cost.dtype), log_q.astype(cost.dtype)
    cost_p, cost_q = (cost_between(function, z, z, cost_fn, chunk_size) for z in (x, y))
    of_p = _self_transport(x, cost_p, log_p, epsilons, tol=tol, unroll=unroll)
    of_q = _self_transport(y, cost_q, log_q, epsilons, tol=tol, unroll=unroll)
    cross = sinkhorn(
        cost, log_p, log_q, epsilon=epsilons, num_iters=num_iters, tol=tol, init=(of_p.f, of_q.f), unroll=unroll
    )
    biases = regularized_cost(of_p, cost_p) + regularized_cost(of_q, cost_q)
    return regularized_cost(cross, cost) - biases / 2.0


def _kept(points: Array, log_weights: Array) -> Array:
    """Points left out lie on one that is not: a cost centres the points, and far ones would take the others' digits."""
    kept = jnp.argmax(log_weights, axis=-1)[..., None, None]
    there = jax.lax.stop_gradient(jnp.take_along_axis(points, kept, axis=-2))
    return jnp.where(log_weights[..., None] == -jnp.inf, there, points)


def _self_transport(
    x: Array, cost: Cost, log_a: Array, epsilons: Array, *, tol: float | None, unroll: bool
) -> SinkhornResult:
    """The one potential of the problem between a measure and itself."""
    given = vary_alike((cost, log_a, epsilons))
    inner, rows, strength = given if unroll else jax.lax.stop_gradient(given)

    def step(potentials: tuple[Array, ...], eps: Array) -> tuple[tuple[Array], Array]:
        (f,) = potentials
        exact = softmin(inner, f, rows, eps)
        return ((f + exact) / 2.0,), row_error(f, exact, rows, eps)

    start = vary_as(zeros_from(x[..., 0]), given)
    (f,), count = iterate(step, (start,), strength, tol=tol, unroll=unroll)
    error = row_error(f, softmin(inner, f, rows, strength[-1]), rows, strength[-1])
    return SinkhornResult(f, f, log_a, log_a, epsilons[-1], error, count)
