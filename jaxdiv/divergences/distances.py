"""Distances of two categorical distributions from differences of probabilities: Wasserstein-1 on a line, beta.

The rules at the edges are those of `jaxdiv.divergences.categorical`. All take float16, bfloat16, float32 and float64
logits, compute and return float32 (float64 where an input is), and never return a negative value.
"""

import functools

import jax
import jax.numpy as jnp

from jaxdiv import checks
from jaxdiv.divergences.categorical import f_divergence, logit_rows
from jaxdiv.divergences.generators import kl
from jaxdiv.divergences.log_ratios import compare, is_largest, logit_gradient
from jaxdiv.numerics import expm1_scaled, power_generator, promote, vary_alike
from jaxdiv.typing import Array, ArrayLike


@jax.custom_jvp
def _wasserstein(a: Array, b: Array, gaps: Array) -> Array:
    return _wasserstein_terms(a, b, gaps)[0]


def _wasserstein_terms(a: Array, b: Array, gaps: Array) -> tuple[Array, Array, Array, Array]:
    """The value, its gradients for a and b, and |P - Q| at every gap."""
    rows = compare(a, b)
    low = rows.rho <= 0.0
    below = rows.q * jnp.expm1(jnp.where(low, rows.rho, 0.0))
    above = -rows.p * jnp.expm1(jnp.where(low, 0.0, -rows.rho))
    difference = jnp.where(rows.both, jnp.where(low, below, above), rows.p - rows.q)
    flow = jnp.cumsum(difference, axis=-1)[..., :-1]
    costs = jnp.cumsum(jnp.flip(gaps * jnp.sign(flow), axis=-1), axis=-1)
    costs = jnp.concatenate([jnp.flip(costs, axis=-1), jnp.zeros_like(difference[..., :1])], axis=-1)
    grad_p, grad_q = logit_gradient(rows.p * costs, rows.p), -logit_gradient(rows.q * costs, rows.q)
    nan = rows.nan[..., None]
    return jnp.sum(jnp.abs(flow) * gaps, axis=-1) + rows.nan, grad_p + nan, grad_q + nan, jnp.abs(flow)


@_wasserstein.defjvp
def _wasserstein_jvp(primals, tangents):
    value, grad_p, grad_q, flow = _wasserstein_terms(*primals)
    slope = jnp.sum(grad_p * tangents[0] + grad_q * tangents[1], axis=-1)
    return value, slope + jnp.sum(flow * tangents[2], axis=-1)


def ordered_wasserstein(
    *,
    p_logits: ArrayLike,
    q_logits: ArrayLike,
    positions: ArrayLike | None = None,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""The Wasserstein-1 distance of two distributions on the same points of a line, per row.

    sum over neighbours of |P_k - Q_k| (x_{k+1} - x_k), P and Q the cumulative probabilities: the least mean distance
    that mass has to move. For ordered categories such as grades, bins or quantised values.

    Args:
        p_logits: unnormalised log-probabilities, floating, -inf for a class that p lacks.
        q_logits: the same for q, of p_logits' shape.
        positions: where the V categories lie, ``[V]`` floating, in any order; 0, 1, 2, ... by default.
        axis: the axis of the categories.
        where: which categories hold mass, booleans that broadcast to the logits' shape. The others keep their
            positions.

    Returns:
        p_logits' shape without `axis`, float32 or float64. Differentiable in logits and positions; where P_k = Q_k the
        subgradient counts sign(0) as 0.

    Raises:
        ValueError: positions of another shape or no floating dtype; logits of no floating dtype or of different shapes;
            an axis out of range or without entries; a mask that is not boolean or does not broadcast.

    >>> p, q = jnp.log(jnp.array([1.0, 0.0, 0.0])), jnp.log(jnp.array([0.0, 0.5, 0.5]))
    >>> round(float(ordered_wasserstein(p_logits=p, q_logits=q)), 6)  # half moves by 1, half by 2
    1.5

    Source: Vallender, "Calculation of the Wasserstein distance between probability distributions on the line" (1974).
    """
    function = "ordered_wasserstein"
    a, b = logit_rows(function, axis, where, p_logits=p_logits, q_logits=q_logits)
    if positions is None:
        return _wasserstein(a, b, jnp.ones(a.shape[-1] - 1, a.dtype))
    points = checks.floating_array(function, "positions", positions)
    checks.check_shape(function, "positions", points, (a.shape[-1],))
    # A gather whose indices alone vary over a mesh would not sum the gradient of what it reads.
    a, b, points = vary_alike((a, b, promote(points)))
    order = jnp.argsort(points)
    dtype = jnp.result_type(a, points)
    a, b = (x[..., order].astype(dtype) for x in (a, b))
    return _wasserstein(a, b, jnp.diff(points[order]).astype(dtype))


def _beta_far(x: Array, beta: float) -> Array:
    """f(r) r^{-(1+beta)} at r = e^{-x}, x < 0, for the generator f of alpha(1 + beta)."""
    return (jnp.exp(beta * x) * jnp.expm1(x) - expm1_scaled(x, beta)) / (1.0 + beta)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _beta(beta: float, a: Array, b: Array) -> Array:
    """Sum q^{1+beta} (1 + beta) f(p / q), f the generator of alpha(1 + beta): no term is below 0."""
    rows = compare(a, b)
    power, end = 1.0 + beta, 1.0 / (1.0 + beta)
    low = rows.rho <= end
    below = jnp.exp(power * rows.log_q) * power_generator(jnp.where(low, rows.rho, 0.0), power)
    above = jnp.exp(power * rows.log_p) * _beta_far(jnp.where(low, -1.0, -rows.rho), beta)
    terms = power * jnp.where(low, below, above)
    terms = jnp.where(rows.only_q, jnp.exp(power * rows.log_q), terms)
    terms = jnp.where(rows.only_p, jnp.exp(power * rows.log_p) / beta, terms)
    return jnp.maximum(jnp.sum(terms, axis=-1), 0.0) + rows.nan


def _with_alone(slopes: Array, mass: Array, log_mass: Array, only: Array, beta: float, cost: float) -> Array:
    """The slopes for log-probabilities, those of classes that one side alone has being cost * mass^{1 + beta}.

    Where the top class is one of them and mass^beta near 1, cost * mass is subtracted from all: the gradient is the
    same, and small differences of large slopes are not left to rounding.
    """
    log_mass = jnp.where(only, log_mass, 0.0)
    near = jnp.any(only & is_largest(mass) & (beta * log_mass > -0.5), axis=-1, keepdims=True)
    alone = cost * mass * jnp.where(near, jnp.expm1(beta * log_mass), jnp.exp(beta * log_mass))
    return jnp.where(only, alone, jnp.where(near, slopes - cost * mass, slopes))


@_beta.defjvp
def _beta_jvp(beta, primals, tangents):
    rows = compare(*primals)
    power, low = 1.0 + beta, rows.rho <= 0.0
    down, up = jnp.where(low, rows.rho, 0.0), jnp.where(low, 0.0, -rows.rho)
    p_power, q_power = jnp.exp(power * rows.log_p), jnp.exp(power * rows.log_q)
    mixed = rows.p * jnp.exp(beta * rows.log_q)
    slopes_p = jnp.where(low, mixed * expm1_scaled(down, beta), -p_power * expm1_scaled(up, beta))
    slopes_p = _with_alone(slopes_p, rows.p, rows.log_p, rows.only_p, beta, 1.0 / beta)
    slopes_q = jnp.where(low, -q_power * jnp.expm1(down), mixed * jnp.expm1(up))
    slopes_q = _with_alone(jnp.where(rows.both, slopes_q, 0.0), rows.q, rows.log_q, rows.only_q, beta, 1.0)
    grad_p = power * logit_gradient(slopes_p, rows.p) + rows.nan[..., None]
    grad_q = power * logit_gradient(slopes_q, rows.q) + rows.nan[..., None]
    return _beta(beta, *primals), jnp.sum(grad_p * tangents[0] + grad_q * tangents[1], axis=-1)


def beta_divergence(
    beta: float, *, p_logits: ArrayLike, q_logits: ArrayLike, axis: int = -1, where: ArrayLike | None = None
) -> Array:
    r"""The beta or density power divergence, in the parametrisation of Basu et al.: p the data's side, q the model's.

    sum q^{1+beta} - (1 + 1/beta) p q^beta + p^{1+beta} / beta: KL(p || q) at beta = 0, |p - q|^2 at beta = 1. Cichocki
    and Amari's beta divergence is this one divided by 1 + beta. It is summed as (1 + beta) q^{1+beta} f(p / q), with f
    the generator of alpha(1 + beta), so that no term is negative and nothing cancels near p = q.

    Args:
        beta: a Python number in [0, 100]; larger values are more robust to outliers among the data.
        p_logits: the data's side; see `ordered_wasserstein`, as for all else.
        q_logits: the model's side.
        axis: the axis of the classes.
        where: which classes take part.

    Returns:
        p_logits' shape without `axis`, float32 or float64; finite for beta > 0. Differentiable twice.

    Raises:
        ValueError: beta is out of range, or as `ordered_wasserstein`.

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(beta_divergence(1, p_logits=p, q_logits=q)), 6)
    0.125

    Source: Basu, Harris, Hjort, Jones, "Robust and efficient estimation by minimising a density power divergence"
    (1998), equation 2.1.
    """
    checks.check_real("beta_divergence", "beta", beta, 0.0, 100.0)
    rows = logit_rows("beta_divergence", axis, where, p_logits=p_logits, q_logits=q_logits)
    if beta == 0:
        return f_divergence(kl(), p_logits=rows[0], q_logits=rows[1])
    return _beta(float(beta), *rows)
