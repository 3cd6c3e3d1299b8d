"""Entropic optimal transport: batched Sinkhorn iterations in the log domain, the plan, and three values named apart."""

import numbers
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_instance, check_integer, check_real, check_shape, fail, floating_array
from jaxdiv.numerics import promote, vary_alike
from jaxdiv.transport.blocks import Cost, iterate, map_rows, row_error, softmin, transposed, zeros_from
from jaxdiv.transport.cost import PointCost, as_cost
from jaxdiv.typing import Array, ArrayLike


class SinkhornResult(NamedTuple):
    """The potentials of an entropic transport problem and how far they are from solving it; arrays, one per problem.

    The plan is ``P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)``.
    """

    f: Array
    """Potential of the rows ``[..., n]``, finite where the weight is 0, too."""
    g: Array
    """Potential of the columns ``[..., m]``; the last half-iteration made it, so the plan's column sums are exact."""
    log_a: Array
    """Logarithms of the row weights ``[..., n]``."""
    log_b: Array
    """Logarithms of the column weights ``[..., m]``."""
    epsilon: Array
    """The entropic strength, a scalar: the last one of a schedule."""
    marginal_error: Array
    """``sum_i |sum_j P_ij - a_i|`` ``[...]``, carrying no derivative."""
    num_iters: Array
    """Iterations done ``[...]``, int32."""


def epsilon_schedule(initial: float, final: float, *, num_iters: int, num_annealing: int | None = None) -> np.ndarray:
    """Strengths that fall geometrically from ``initial`` to ``final`` and stay there: a start for small ``final``.

    Args:
        initial: strength of the first iteration, above 0; about the largest cost.
        final: the strength whose problem is solved, above 0.
        num_iters: length of the schedule, at least 1.
        num_annealing: iterations before ``final`` is reached, in [0, num_iters - 1]; None is half of ``num_iters``.

    Returns:
        ``[num_iters]`` float64 on the host, for the argument ``epsilon``.

    Raises:
        ValueError: a number of the wrong type or outside its range.

    >>> epsilon_schedule(8.0, 1.0, num_iters=5, num_annealing=3).round(6).tolist()
    [8.0, 4.0, 2.0, 1.0, 1.0]

    Source: Feydy et al., "Interpolating between optimal transport and MMD using Sinkhorn divergences",
    arXiv 1810.08278, on annealing.
    """
    function = "epsilon_schedule"
    check_real(function, "initial", initial, 0.0, np.inf, open_low=True, open_high=True)
    check_real(function, "final", final, 0.0, np.inf, open_low=True, open_high=True)
    check_integer(function, "num_iters", num_iters, 1)
    if num_annealing is None:
        num_annealing = num_iters // 2
    check_integer(function, "num_annealing", num_annealing, 0, num_iters - 1)
    ramp = np.geomspace(initial, final, num_annealing + 1)[:-1]
    return np.concatenate([ramp, np.full(num_iters - num_annealing, float(final))])


def log_weights(function: str, argument: str, value: ArrayLike | None, shape: tuple[int, ...], like: Cost) -> Array:
    """The log-weights in the cost's dtype; uniform ones, of total mass 1, where None is given."""
    if value is None:
        return jnp.full(shape, -np.log(shape[-1]), like.dtype)
    return given_log_weights(function, argument, value, shape).astype(like.dtype)


def given_log_weights(function: str, argument: str, value: ArrayLike, shape: tuple[int, ...]) -> Array:
    """Log-weights that were given; where their values are known, those of a mass above 1 are refused.

    Weights in place of their logarithms are what this is for: their exponentials sum to more than the number of points.
    A tenth is for rounding: bfloat16 logarithms beyond -16, of uniform weights of 10^7 points, err by up to 0.06.
    """
    value = floating_array(function, argument, value)
    check_shape(function, argument, value, shape)
    mass = jnp.max(jnp.sum(jnp.exp(promote(value)), axis=-1), initial=0.0)
    if not isinstance(mass, jax.core.Tracer) and mass > 1.1:
        raise fail(function, argument, f"has a total mass of {float(mass):.6g}", "logarithms of weights that sum to 1")
    return value


def strengths(function: str, epsilon: ArrayLike, num_iters: int, tol: float | None, unroll: bool) -> Array:
    """``epsilon`` as one strength per iteration; checks it and the other arguments of the loop."""
    check_integer(function, "num_iters", num_iters, 1)
    check_instance(function, "unroll", unroll, bool)
    if tol is not None:
        check_real(function, "tol", tol, 0.0, np.inf, open_high=True)
        if unroll:
            raise fail(function, "tol", f"is {tol} with unroll", "None: a loop of unknown length has no reverse mode")
    if isinstance(epsilon, numbers.Real):
        check_real(function, "epsilon", epsilon, 0.0, np.inf, open_low=True, open_high=True)
        epsilon = float(epsilon)
    array = floating_array(function, "epsilon", epsilon)
    if array.shape not in ((), (num_iters,)):
        raise fail(function, "epsilon", f"has shape {array.shape}", f"shape () or (num_iters,) = ({num_iters},)")
    if not isinstance(epsilon, jax.Array) and not np.all((np.asarray(epsilon) > 0) & np.isfinite(np.asarray(epsilon))):
        raise fail(function, "epsilon", f"is {epsilon!r}", "numbers in (0, inf)")
    return jnp.broadcast_to(array, (num_iters,))


def sinkhorn(
    cost: ArrayLike | PointCost,
    log_a: ArrayLike | None = None,
    log_b: ArrayLike | None = None,
    *,
    epsilon: ArrayLike,
    num_iters: int = 100,
    tol: float | None = None,
    init: tuple[ArrayLike, ArrayLike] | None = None,
    unroll: bool = False,
) -> SinkhornResult:
    r"""Potentials of ``min over P of <P, C> + epsilon KL(P || a b^T)``, P having row sums a and column sums b.

    Alternates ``f_i = -epsilon log sum_j b_j exp((g_j - C_ij) / epsilon)`` and the same for g, in the log domain, so no
    epsilon overflows. Points of weight 0 take no part, exactly. Leading axes of the cost are separate problems.

    Derivatives: by default none passes the loop. The potentials are constants, and `regularized_cost` and
    `entropic_cost` have the exact first derivative of the solved problem in cost, weights and epsilon (envelope
    theorem); second derivatives need ``unroll=True``, which differentiates the iterations, in memory for the potentials
    of each and none of their matrices.

    Args:
        cost: ``[..., n, m]``, floating; +inf forbids a pair. Or a `point_cost`, which is never stored.
        log_a: logarithms of the row weights ``[..., n]``, total mass 1; -inf leaves a row out. None is uniform.
        log_b: the same for columns ``[..., m]``.
        epsilon: entropic strength, in the cost's units: a positive number, or one per iteration ``[num_iters]``, whose
            last is the problem that is solved (see `epsilon_schedule`).
        num_iters: iterations, each a half-iteration for f and one for g; the most there are where ``tol`` is given.
        tol: a problem stops once its ``marginal_error`` was at most this; None does all iterations, which is faster
            where many problems share a batch and the slowest would set the pace.
        init: potentials ``(f, g)`` to start from, for instance those of a similar problem; None is zeros. The start
            carries no derivative unless unrolled.
        unroll: differentiate the iterations instead of treating the potentials as constants.

    Returns:
        The potentials, errors and counts; float32 (float64 if the cost is). Nothing raises where the iterations did not
        converge: ``marginal_error`` says how far they got.

    Raises:
        ValueError: wrong dtype, rank or shape, an empty axis, an epsilon or count out of range, ``tol`` with
            ``unroll``, or, where their values are known, log-weights of a mass above 1, as weights themselves are.

    >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    >>> result = sinkhorn(cost, epsilon=0.5)
    >>> [round(float(mass), 4) for mass in plan(result, cost)[0]]  # the diagonal holds 1 / (2 + 2 exp(-2))
    [0.4404, 0.0596]

    Source: Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport", arXiv 1306.0895; Peyre and
    Cuturi, "Computational optimal transport", arXiv 1803.00567, section 4.4.
    """
    function = "sinkhorn"
    cost = as_cost(function, cost)
    epsilons = strengths(function, epsilon, num_iters, tol, unroll).astype(cost.dtype)
    shapes = cost.shape[:-1], (*cost.shape[:-2], cost.shape[-1])
    log_a = log_weights(function, "log_a", log_a, shapes[0], cost)
    log_b = log_weights(function, "log_b", log_b, shapes[1], cost)
    given = vary_alike((cost, log_a, log_b, epsilons, _start(init, shapes, cost)))
    inner, rows, columns, strength, start = given if unroll else jax.lax.stop_gradient(given)
    other = transposed(inner)

    def step(potentials: tuple[Array, ...], eps: Array) -> tuple[tuple[Array, Array], Array]:
        f, g = potentials
        exact = _finite(softmin(inner, g, columns, eps), rows)
        return (exact, _finite(softmin(other, exact, rows, eps), columns)), row_error(f, exact, rows, eps)

    (f, g), count = iterate(step, start, strength, tol=tol, unroll=unroll)
    error = row_error(f, softmin(inner, g, columns, strength[-1]), rows, strength[-1])
    return SinkhornResult(f, g, log_a, log_b, epsilons[-1], error, count)


def _finite(potential: Array, log_weight: Array) -> Array:
    """With 0 where a row of weight 0 has no finite cost, so that nothing of it is inf - inf."""
    return jnp.where((log_weight == -jnp.inf) & jnp.isinf(potential), 0.0, potential)


def _start(init: tuple[ArrayLike, ArrayLike] | None, shapes: tuple, cost: Cost) -> tuple[Array, Array]:
    if init is None:
        stored = not isinstance(cost, PointCost)
        like = (cost[..., 0], cost[..., 0, :]) if stored else (cost.x[..., 0], cost.y[..., 0])
        return zeros_from(like[0]), zeros_from(like[1])
    if not isinstance(init, tuple | list) or len(init) != 2:
        raise fail("sinkhorn", "init", f"is a {type(init).__name__}", "a pair of potentials (f, g)")
    pair = tuple(floating_array("sinkhorn", f"init[{i}]", value) for i, value in enumerate(init))
    for i in (0, 1):
        check_shape("sinkhorn", f"init[{i}]", pair[i], shapes[i])
    return pair[0].astype(cost.dtype), pair[1].astype(cost.dtype)


def _matched(function: str, result: SinkhornResult, cost: ArrayLike | PointCost) -> Cost:
    check_instance(function, "result", result, SinkhornResult)
    cost = as_cost(function, cost)
    expected = (*np.shape(result.f), np.shape(result.g)[-1])
    if cost.shape != expected:
        raise fail(function, "cost", f"has shape {cost.shape}", f"the shape {expected} of the result's problem")
    return cost


def _plan_rows(result: SinkhornResult, block: Array, f: Array, log_a: Array) -> Array:
    exponent = (f[..., :, None] + result.g[..., None, :] - block) / result.epsilon
    return jnp.exp(exponent + log_a[..., :, None] + result.log_b[..., None, :])


def plan(result: SinkhornResult, cost: ArrayLike | PointCost) -> Array:
    r"""The transport plan ``P_ij = a_i b_j exp((f_i + g_j - C_ij) / epsilon)``, as a stored matrix.

    Differentiates as the formula in all that enters it: of the solved problem only where the result was unrolled.

    Args:
        result: what `sinkhorn` returned for this cost.
        cost: ``[..., n, m]``, or a `point_cost`.

    Returns:
        ``[..., n, m]``, non-negative; column sums are b to rounding, row sums are a up to ``marginal_error``.

    Raises:
        ValueError: no `SinkhornResult`, or a cost of another shape than its problem's.

    >>> cost = jnp.zeros((2, 4))
    >>> plan(sinkhorn(cost, epsilon=1.0, num_iters=1), cost)[0].tolist()
    [0.125, 0.125, 0.125, 0.125]
    """
    cost = _matched("plan", result, cost)
    matrix = cost.cost_fn(cost.x, cost.y) if isinstance(cost, PointCost) else cost
    return _plan_rows(result, matrix, result.f, result.log_a)


def transport_cost(result: SinkhornResult, cost: ArrayLike | PointCost, *, unroll: bool = False) -> Array:
    r"""``<P, C>``, the cost of the entropic plan without its entropy: Cuturi's "Sinkhorn distance".

    Derivatives: the plan is held constant, so the gradient in the cost is P. That is the gradient of
    `regularized_cost`, and of ``<P, C>`` itself only in the limit epsilon to 0; ``unroll=True``, together with the same
    of `sinkhorn`, gives the latter's exactly.

    Args:
        result: what `sinkhorn` returned for this cost.
        cost: ``[..., n, m]``, or a `point_cost`; a pair of cost +inf counts 0.
        unroll: differentiate the plan; costs must then be finite.

    Returns:
        ``[...]``, one value per problem.

    Raises:
        ValueError: no `SinkhornResult`, or a cost of another shape than its problem's.

    >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    >>> round(float(transport_cost(sinkhorn(cost, epsilon=0.5), cost)), 4)  # exp(-2) / (1 + exp(-2))
    0.1192
    """
    cost = _matched("transport_cost", result, cost)
    check_instance("transport_cost", "unroll", unroll, bool)

    def rows(block: Array, f: Array, log_a: Array) -> Array:
        mass = _plan_rows(result, block, f, log_a)
        mass = mass if unroll else jax.lax.stop_gradient(mass)
        return jnp.sum(jnp.where(mass == 0, 0.0, mass * block), axis=-1)

    return jnp.sum(map_rows(rows, cost, result.f, result.log_a), axis=-1)


def regularized_cost(result: SinkhornResult, cost: ArrayLike | PointCost) -> Array:
    r"""``<P, C> + epsilon KL(P || a b^T)``, the value that Sinkhorn minimises and that Sinkhorn divergences use.

    Computed as the dual value ``<a, f> + <b, g> - epsilon (sum P - 1)``: a lower bound that is exact at convergence,
    with an error of second order in that of the potentials. Its derivative at constant potentials is the true one of
    the solved problem: P in the cost, f (up to a constant) in the weights, KL in epsilon.

    Args:
        result: what `sinkhorn` returned for this cost; weights of total mass 1.
        cost: ``[..., n, m]``, or a `point_cost`.

    Returns:
        ``[...]``, one value per problem; at least the exact transport cost, once converged.

    Raises:
        ValueError: no `SinkhornResult`, or a cost of another shape than its problem's.

    >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    >>> round(float(regularized_cost(sinkhorn(cost, epsilon=0.5), cost)), 4)  # -0.5 log((1 + exp(-2)) / 2)
    0.2831

    Source: Peyre and Cuturi, "Computational optimal transport", arXiv 1803.00567, proposition 4.4, for KL(P || a b^T).
    """
    cost = _matched("regularized_cost", result, cost)

    def rows(block: Array, f: Array, log_a: Array) -> Array:
        return jnp.sum(_plan_rows(result, block, f, log_a), axis=-1)

    mass = jnp.sum(map_rows(rows, cost, result.f, result.log_a), axis=-1)
    a, b = jnp.exp(result.log_a), jnp.exp(result.log_b)
    dual = jnp.sum(a * result.f, axis=-1) + jnp.sum(b * result.g, axis=-1)
    return dual - result.epsilon * (mass - jnp.sum(a, axis=-1) * jnp.sum(b, axis=-1))


def entropic_cost(result: SinkhornResult, cost: ArrayLike | PointCost) -> Array:
    r"""``<P, C> - epsilon H(P)`` with ``H(P) = -sum P log P``, the value in the definition of the Monge gap.

    It is `regularized_cost` less ``epsilon (H(a) + H(b))``: negative for large epsilon, with the same derivative in the
    cost.

    Args:
        result: what `sinkhorn` returned for this cost; weights of total mass 1.
        cost: ``[..., n, m]``, or a `point_cost`.

    Returns:
        ``[...]``, one value per problem; at most the exact transport cost.

    Raises:
        ValueError: no `SinkhornResult`, or a cost of another shape than its problem's.

    >>> cost = jnp.array([[0.0, 1.0], [1.0, 0.0]])
    >>> round(float(entropic_cost(sinkhorn(cost, epsilon=0.5), cost)), 4)  # 0.2831 - 0.5 * 2 log 2
    -0.41

    Source: Cuturi, "Sinkhorn distances: lightspeed computation of optimal transport", arXiv 1306.0895, section 4.
    """
    cost = _matched("entropic_cost", result, cost)
    entropies = _entropy(result.log_a) + _entropy(result.log_b)
    return regularized_cost(result, cost) - result.epsilon * entropies


def _entropy(log_weight: Array) -> Array:
    return -jnp.sum(jnp.exp(log_weight) * jnp.where(log_weight > -jnp.inf, log_weight, 0.0), axis=-1)
