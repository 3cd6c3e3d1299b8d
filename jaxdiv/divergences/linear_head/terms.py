"""What one category adds to an f-divergence and to its logits gradient, cheap enough for a vocabulary of 100,000.

With base = max(p, q) and s = -|log p - log q| nothing overflows, and one of p, q is base and the other base * e^s, so
that the powers and Jensen-Shannon need two to four exponentials or logarithms per category where the record's general
formulas need eight. Every other divergence goes through its record.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.divergences import generators, mixtures, record
from jaxdiv.divergences.linear_head import near_zero
from jaxdiv.divergences.record import FDivergence, Formula

# e^s is 0 in float32 and float64 from here on; only terms linear in s still move, and -inf has its own constants.
_FAR = -1e4
# Closer than this to the ends of their families the cheap forms divide a difference by a small number.
_POWER_MARGIN = 0.1
_MIXTURE_MARGIN = 0.01


_Pair = tuple[jax.Array, jax.Array]


class Terms(NamedTuple):
    """Of one category: ``value`` = q f(r) >= 0, ``slope`` = q (f(r) - r f'(r)) and ``q`` itself."""

    value: jax.Array
    slope: jax.Array
    q: jax.Array


def category_terms(divergence: FDivergence, log_p: jax.Array, log_q: jax.Array, zeros: bool = True) -> Terms:
    r"""The summands of D_f(p || q) = sum of value and of its gradient slope - q * sum of slope in the logits of q.

    Args:
        divergence: the record of f.
        log_p: normalised log-probabilities of p, float32 or float64; -inf is probability 0.
        log_q: those of q, of the same shape.
        zeros: whether -inf may occur; without it the limits are not looked at, which saves a fifth of the work.

    Returns:
        `Terms` of that shape and dtype. A category with p = 0 adds q f(0) to both sums, one with q = 0 adds
        p lim f(r)/r to the value alone, one with neither adds nothing.

    >>> terms = category_terms(generators.kl(), jnp.log(jnp.array([0.75])), jnp.log(jnp.array([0.25])))
    >>> round(float(terms.value[0]), 6), round(float(terms.slope[0]), 6)  # 0.75 log 3 - 0.5 and q - p
    (0.323959, -0.5)
    """
    above = log_p > log_q
    top = jnp.maximum(log_p, log_q)
    base = jnp.exp(top)
    exact_s = s = -jnp.abs(log_p - log_q)
    if zeros:
        exact_s = jnp.where(top == -jnp.inf, 0.0, exact_s)
        s = jnp.maximum(exact_s, _FAR)
    ratio = jnp.exp(s)  # the smaller over the larger
    q = jnp.where(above, base * ratio, base)
    family, parameter, factor = divergence_family(divergence)
    if family == "power":
        value, slope = _power(parameter, above, s, ratio)
    elif family == "jensen_shannon":
        value, slope = _jensen_shannon(parameter, above, s, ratio)
    else:
        value, slope = _general(divergence, above, exact_s)
    if not zeros:
        scaled = base if factor == 1.0 else factor * base
        return Terms(scaled * value, scaled * slope, q)
    # Where one of the two vanishes the limits are constants of the record (and 0 * inf must not arise).
    one_is_zero = exact_s == -jnp.inf
    edge = jnp.where(above, divergence.dual_at_zero, divergence.at_zero)
    value = jnp.where(one_is_zero, edge, factor * value)
    slope = jnp.where(one_is_zero, jnp.where(above, 0.0, divergence.at_zero), factor * slope)
    present = base > 0.0
    return Terms(jnp.where(present, base * value, 0.0), jnp.where(present, base * slope, 0.0), q)


def rough_slope(divergence: FDivergence, log_p: jax.Array, log_q: jax.Array, zeros: bool = True) -> jax.Array:
    """The slope of `category_terms` with an error relative to q, good enough for a sum that q multiplies.

    >>> slope = rough_slope(mixtures.jensen_shannon(), jnp.log(jnp.array([0.75])), jnp.log(jnp.array([0.25])))
    >>> round(float(slope[0]), 6)  # -log(2) / 8
    -0.086643
    """
    family, pi, factor = divergence_family(divergence)
    if family != "jensen_shannon":
        return category_terms(divergence, log_p, log_q, zeros).slope
    q = jnp.exp(log_q)
    rho = jnp.minimum(log_p - log_q, 80.0)  # beyond it q is nothing beside p, and e^rho too large
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


# Each returns value and slope in units of base; `ratio` is e^s and `above` says p > q. The functions `_near_*` are the
# same formulas in numpy's float64, from which polynomials for s near 0 are made.


def _power(a: float, above: jax.Array, s: jax.Array, ratio: jax.Array) -> _Pair:
    """F = (r^a - a r - (1 - a)) / (a (a - 1)), slope (1 - r^a) / a; where p > q at 1 / r, with the power 1 - a."""
    near = s > near_zero.START
    value = near_zero.near_zero(_near_power, 2, s, above, (1.0 - a,), (a,))
    slope = near_zero.near_zero(_near_power_slope, 1, s, above, (a, 1.0), (a, 0.0))
    if a in (0.0, 1.0):
        rest = ratio - 1.0
        falls, grows = s * ratio - rest, rest - s  # KL's and reverse KL's generator at e^s
        if a == 1.0:
            far = jnp.where(above, grows, falls), jnp.where(above, rest, -rest)
        else:
            far = jnp.where(above, falls, grows), jnp.where(above, s * ratio, -s)
    else:
        powers = jnp.exp(a * s), jnp.exp((1.0 - a) * s)
        c = jnp.where(above, 1.0 - a, a)
        power = jnp.where(above, powers[1], powers[0])
        far = (power - 1.0 - c * (ratio - 1.0)) / (a * (a - 1.0)), jnp.where(above, ratio - power, 1.0 - power) / a
    return jnp.where(near, value, far[0]), jnp.where(near, slope, far[1])


def _near_power(s: np.ndarray, c: float) -> np.ndarray:
    if c == 1.0:
        return s * np.exp(s) - np.expm1(s)
    return np.expm1(s) - s if c == 0.0 else (np.expm1(c * s) - c * np.expm1(s)) / (c * (c - 1.0))


def _near_power_slope(s: np.ndarray, a: float, above: float) -> np.ndarray:
    slope = -s if a == 0.0 else -np.expm1(a * s) / a
    return -np.exp((1.0 - a) * s) * slope if above else slope


def _jensen_shannon(pi: float, above: jax.Array, s: jax.Array, ratio: jax.Array) -> _Pair:
    """F = pi r log r - m log m with m = pi r + 1 - pi, and f - r f' = -(1 - pi) log m."""
    near = s > near_zero.START
    c = jnp.where(above, 1.0 - pi, pi)
    m = jnp.where(above, pi, 1.0 - pi) + c * ratio  # the mixture over the larger of p and q
    log_m = jnp.log(m)
    value = jnp.where(
        near, near_zero.near_zero(_near_mixture_value, 2, s, above, (1.0 - pi,), (pi,)), c * s * ratio - m * log_m
    )
    log_m = jnp.where(near, near_zero.near_zero(_near_log_mixture, 1, s, above, (1.0 - pi,), (pi,)), log_m)
    return value, -(1.0 - pi) * jnp.where(above, ratio * (log_m - s), log_m)


def _near_log_mixture(s: np.ndarray, c: float) -> np.ndarray:
    return np.log1p(c * np.expm1(s))


def _near_mixture_value(s: np.ndarray, c: float) -> np.ndarray:
    return c * s * np.exp(s) - (1.0 + c * np.expm1(s)) * _near_log_mixture(s, c)


def _general(divergence: FDivergence, above: jax.Array, s: jax.Array) -> _Pair:
    """From the record: q f = q phi(s), and p phi_dual(s) where p > q; there f/r - f' = phi_dual(s) - f'(e^-s)."""
    low, high = jnp.where(above, 0.0, s), jnp.where(above, s, 0.0)
    dual = divergence.phi_dual(high)
    value = jnp.where(above, dual, divergence.phi(low))
    return value, jnp.where(above, dual - divergence.link(-high), divergence.score(low))
