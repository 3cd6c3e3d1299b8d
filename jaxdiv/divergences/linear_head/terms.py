"""What one category adds to an f-divergence and to its logits gradient, cheap enough for a vocabulary of 100,000.

With base = max(p, q) and s = -|log p - log q| nothing overflows, and one of p, q is base and the other base * e^s, so
that the powers and Jensen-Shannon need two or three transcendental functions per category where the record's general
formulas need eight. Every other divergence goes through its record.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.divergences import generators, mixtures, record
from jaxdiv.divergences.record import FDivergence, Formula

# e^s is 0 in float32 and float64 from here on; only terms linear in s still move, and -inf has its own constants.
_FAR = -1e4
# Closer than this to the ends of their families the cheap forms divide a difference by a small number.
_MARGIN = 0.01


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
    ratio, rest = jnp.exp(s), jnp.expm1(s)  # the smaller over the larger, and that minus 1: each to its own rounding
    q = jnp.where(above, base * ratio, base)
    family, parameter, factor = divergence_family(divergence)
    if family == "power":
        value, slope = _power(parameter, above, s, ratio, rest)
    elif family == "jensen_shannon":
        value, slope = _jensen_shannon(parameter, above, s, ratio, rest)
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


def divergence_family(divergence: FDivergence) -> tuple[str, float, float]:
    """(family, parameter, factor) of the records with a cheap form; normalised ones carry the factor."""
    phi, factor = divergence.phi, 1.0
    while isinstance(phi, Formula) and phi.fn is record._times:
        phi, factor = phi.args[0], factor * phi.args[1]
    if isinstance(phi, Formula) and phi.fn is generators._power_phi:
        a = phi.args[0]
        if a in (0.0, 1.0) or min(abs(a), abs(1.0 - a)) >= _MARGIN:
            return "power", a, factor
    if isinstance(phi, Formula) and phi.fn is mixtures._js_phi:
        pi = phi.args[0]
        if _MARGIN <= pi <= 1.0 - _MARGIN:
            return "jensen_shannon", pi, factor
    return "general", 0.0, 1.0


# Each returns value and slope in units of base; `ratio` is e^s and `rest` expm1(s), `above` says p > q.


def _power(a: float, above: jax.Array, s: jax.Array, ratio: jax.Array, rest: jax.Array) -> _Pair:
    """F = (r^a - a r - (1 - a)) / (a (a - 1)); where p > q its reversal, the power 1 - a, at 1 / r."""
    falls, grows = s * ratio - rest, rest - s  # KL's and reverse KL's generator at e^s
    if a == 1.0:
        return jnp.where(above, grows, falls), jnp.where(above, rest, -rest)
    if a == 0.0:
        return jnp.where(above, falls, grows), jnp.where(above, s * ratio, -s)
    c = jnp.where(above, 1.0 - a, a)
    power = jnp.expm1(a * s)
    # e^s - e^{(1 - a) s} as a product whose factors stay finite.
    drop = jnp.exp((1.0 - a) * s) * power if a > 0.0 else -ratio * jnp.expm1(-a * s)
    return (jnp.expm1(c * s) - c * rest) / (a * (a - 1.0)), jnp.where(above, drop, -power) / a


def _jensen_shannon(pi: float, above: jax.Array, s: jax.Array, ratio: jax.Array, rest: jax.Array) -> _Pair:
    """F = pi r log r - m log m with m = pi r + 1 - pi, and f - r f' = -(1 - pi) log m."""
    c = jnp.where(above, 1.0 - pi, pi)
    shift = c * rest
    # log of the mixture over the larger of p and q; far from 1 as a sum of its positive shares
    shares = jnp.where(above, pi, 1.0 - pi) + c * ratio
    log_m = jnp.where(shift < -0.5, jnp.log(shares), jnp.log1p(shift))
    value = c * s * ratio - (1.0 + shift) * log_m
    return value, -(1.0 - pi) * jnp.where(above, ratio * (log_m - s), log_m)


def _general(divergence: FDivergence, above: jax.Array, s: jax.Array) -> _Pair:
    """From the record: q f = q phi(s), and p phi_dual(s) where p > q; there f/r - f' = phi_dual(s) - f'(e^-s)."""
    low, high = jnp.where(above, 0.0, s), jnp.where(above, s, 0.0)
    dual = divergence.phi_dual(high)
    value = jnp.where(above, dual, divergence.phi(low))
    return value, jnp.where(above, dual - divergence.link(-high), divergence.score(low))
