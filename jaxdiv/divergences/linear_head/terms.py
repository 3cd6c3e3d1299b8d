"""What one category adds to an f-divergence and to its logits gradient, cheap enough for a vocabulary of 100,000.

The powers and Jensen-Shannon need two to four exponentials or logarithms per category where the record's general
formulas need eight; near p = q, where they would be small differences, polynomials in rho = log p - log q. Every other
divergence goes through its record.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.divergences import generators, mixtures, record
from jaxdiv.divergences.linear_head import near_zero
from jaxdiv.divergences.linear_head.near_zero import Near
from jaxdiv.divergences.record import FDivergence, Formula

# Closer than this to the ends of their families the cheap forms divide a difference by a small number.
_POWER_MARGIN = 0.1
_MIXTURE_MARGIN = 0.01


_Pair = tuple[jax.Array, jax.Array]


class Terms(NamedTuple):
    """Of one category: ``value`` = q f(r) >= 0, ``slope`` = q (f(r) - r f'(r)) and ``q`` itself."""

    value: jax.Array
    slope: jax.Array
    q: jax.Array


def category_terms(
    divergence: FDivergence,
    log_p: jax.Array,
    log_q: jax.Array,
    zeros: bool = True,
    *,
    rho: jax.Array | None = None,
    coarse: bool = False,
) -> Terms:
    r"""The summands of D_f(p || q) = sum of value and of its gradient slope - q * sum of slope in the logits of q.

    Args:
        divergence: the record of f.
        log_p: normalised log-probabilities of p, float32 or float64; -inf is probability 0.
        log_q: those of q, of the same shape.
        zeros: whether -inf may occur; without it the limits are not looked at, which saves a fifth of the work.
        rho: log_p - log_q, where that is known better than by the difference.
        coarse: whether rho was rounded to float16: fewer digits for it, and not differentiable.

    Returns:
        `Terms` of that shape and dtype. A category with p = 0 adds q f(0) to both sums, one with q = 0 adds
        p lim f(r)/r to the value alone, one with neither adds nothing.

    >>> terms = category_terms(generators.kl(), jnp.log(jnp.array([0.75])), jnp.log(jnp.array([0.25])))
    >>> round(float(terms.value[0]), 6), round(float(terms.slope[0]), 6)  # 0.75 log 3 - 0.5 and q - p
    (0.323959, -0.5)
    """
    rho = log_p - log_q if rho is None else rho
    one_is_zero, above = jnp.isinf(rho), rho > 0.0
    near = near_zero.COARSE if coarse else near_zero.FLOAT64 if rho.dtype == jnp.float64 else near_zero.FLOAT32
    if zeros:  # what a missing category makes of it is replaced below, and must be no NaN for derivatives' sake
        rho = jnp.where(jnp.minimum(log_p, log_q) == -jnp.inf, 0.0, rho)
    q = jnp.exp(log_q)
    family, parameter, factor = divergence_family(divergence)
    if family == "power":
        value, slope = _power(parameter, log_p, rho, q, near)
    elif family == "jensen_shannon":
        value, slope = _jensen_shannon(parameter, log_p, rho, q, near)
    else:
        value, slope = _general(divergence, log_p, log_q, rho)
    if factor != 1.0:
        value, slope = factor * value, factor * slope
    if not zeros:
        return Terms(value, slope, q)
    # Where one of the two vanishes the limits are constants of the record (and 0 * inf must not arise).
    base = jnp.exp(jnp.maximum(log_p, log_q))
    value = jnp.where(one_is_zero, base * jnp.where(above, divergence.dual_at_zero, divergence.at_zero), value)
    slope = jnp.where(one_is_zero, jnp.where(above, 0.0, base * divergence.at_zero), slope)
    absent = base == 0.0
    return Terms(jnp.where(absent, 0.0, value), jnp.where(absent, 0.0, slope), q)


def rough_slope(
    divergence: FDivergence,
    log_p: jax.Array,
    log_q: jax.Array,
    zeros: bool = True,
    *,
    rho: jax.Array | None = None,
    coarse: bool = False,
) -> jax.Array:
    """The slope of `category_terms` with an error relative to q, good enough for a sum that q multiplies.

    >>> slope = rough_slope(mixtures.jensen_shannon(), jnp.log(jnp.array([0.75])), jnp.log(jnp.array([0.25])))
    >>> round(float(slope[0]), 6)  # -log(2) / 8
    -0.086643
    """
    family, pi, factor = divergence_family(divergence)
    if family != "jensen_shannon":
        return category_terms(divergence, log_p, log_q, zeros, rho=rho, coarse=coarse).slope
    q = jnp.exp(log_q)
    rho = log_p - log_q if rho is None else rho
    rho = jnp.minimum(rho, 80.0)  # beyond it q is nothing beside p, and e^rho too large
    slope = -factor * (1.0 - pi) * q * jnp.log(pi * jnp.exp(rho) + (1.0 - pi))
    return jnp.where(q == 0.0, 0.0, slope) if zeros else slope


def divergence_family(divergence: FDivergence) -> tuple[str, float, float]:
    """(family, parameter, factor) of the records with a cheap form; normalised ones carry the factor."""
    phi, factor = divergence.phi, 1.0
    while isinstance(phi, Formula) and phi.fn is record._times:
        phi, factor = phi.args[0], factor * phi.args[1]
    if isinstance(phi, Formula) and phi.fn is generators._power_phi:
        a = phi.args[0]
        if a in (0.0, 1.0) or (-1.0 <= a <= 2.0 and min(abs(a), abs(1.0 - a)) >= _POWER_MARGIN):
            return "power", a, factor
    if isinstance(phi, Formula) and phi.fn is mixtures._js_phi:
        pi = phi.args[0]
        if _MIXTURE_MARGIN <= pi <= 1.0 - _MIXTURE_MARGIN:
            return "jensen_shannon", pi, factor
    return "general", 0.0, 1.0


# Each returns value and slope; the functions `_..._score` and `_log_mixture` are in numpy's float64, from which the
# polynomials near rho = 0 are made. There p and q are e^rho q and q, and a value is q times the integral of its score.


def _power(a: float, log_p: jax.Array, rho: jax.Array, q: jax.Array, near: Near) -> _Pair:
    """F = (r^a - a r - (1 - a)) / (a (a - 1)), slope (1 - r^a) / a."""
    is_near, p = jnp.abs(rho) < near.reach, jnp.exp(log_p)
    value = q * near_zero.near_zero(_power_score, 2, rho, near, a)
    if a == 0.0:
        return jnp.where(is_near, value, p - q * (1.0 + rho)), -q * rho
    slope = q * near_zero.near_zero(_power_slope, 1, rho, near, a)
    if a == 1.0:
        far = p * (rho - 1.0) + q, q - p
    else:
        above = rho > 0.0  # from the larger of the two, so that nothing overflows where 0 <= a <= 1
        mixed = jnp.where(above, p, q) * jnp.exp(jnp.where(above, a - 1.0, a) * rho)
        # Times a constant: a kernel would divide each category.
        far = (mixed - a * p - (1.0 - a) * q) * (1.0 / (a * (a - 1.0))), (q - mixed) * (1.0 / a)
    return jnp.where(is_near, value, far[0]), jnp.where(is_near, slope, far[1])


def _power_score(rho: np.ndarray, a: float) -> np.ndarray:
    """The derivative of F(e^rho) in rho, e^rho (e^((a - 1) rho) - 1) / (a - 1)."""
    return np.exp(rho) * (rho if a == 1.0 else np.expm1((a - 1.0) * rho) / (a - 1.0))


def _power_slope(rho: np.ndarray, a: float) -> np.ndarray:
    return -np.expm1(a * rho) / a


def _jensen_shannon(pi: float, log_p: jax.Array, rho: jax.Array, q: jax.Array, near: Near) -> _Pair:
    """F = pi r log r - m log m with m = pi r + 1 - pi, and f - r f' = -(1 - pi) log m."""
    is_near, above = jnp.abs(rho) < near.reach, jnp.maximum(rho, 0.0)
    ratio = jnp.exp(-jnp.abs(rho))  # the smaller of p and q over the larger
    # Of the mixture over the larger of the two.
    log_m = jnp.log(jnp.where(rho > 0.0, pi + (1.0 - pi) * ratio, (1.0 - pi) + pi * ratio))
    log_m_over_q = jnp.where(is_near, near_zero.near_zero(_log_mixture, 1, rho, near, pi), log_m + above)
    slope = -(1.0 - pi) * q * log_m_over_q
    far = pi * jnp.exp(log_p) * ((rho - above) - log_m) + slope
    return jnp.where(is_near, q * near_zero.near_zero(_mixture_score, 2, rho, near, pi), far), slope


def _log_mixture(rho: np.ndarray, pi: float) -> np.ndarray:
    return np.log1p(pi * np.expm1(rho))


def _mixture_score(rho: np.ndarray, pi: float) -> np.ndarray:
    """The derivative of F(e^rho) in rho, pi r log(r / m)."""
    return pi * np.exp(rho) * (rho - _log_mixture(rho, pi))


def _general(divergence: FDivergence, log_p: jax.Array, log_q: jax.Array, rho: jax.Array) -> _Pair:
    """From the record: q f = q phi(rho), and p phi_dual(-rho) where p > q; there f/r - f' = phi_dual(-rho) - f'(r)."""
    above, base = rho > 0.0, jnp.exp(jnp.maximum(log_p, log_q))
    low, high = jnp.minimum(rho, 0.0), jnp.minimum(-rho, 0.0)
    dual = divergence.phi_dual(high)
    value = jnp.where(above, dual, divergence.phi(low))
    return base * value, base * jnp.where(above, dual - divergence.link(-high), divergence.score(low))
