"""The named f-divergences that are powers of r = p/q, sums of them, or the absolute value; see `mixtures` for the rest.

Names say which generator: `kl` is f = r log r, the divergence KL(p || q); `reverse_kl` is f = -log r, that is
KL(q || p). Sources: Nowozin, Cseke, Tomioka, "f-GAN" (arXiv:1606.00709, tables 1 and 6), brought to the gauge
f(1) = f'(1) = 0. A function of r^a at log-ratio rho is as accurate as a * rho is representable: |a rho| rounding units.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_range
from jaxdiv.divergences.record import FDivergence, Formula, real_parameter
from jaxdiv.numerics import (
    exp_scaled,
    expm1_scaled,
    inf_from,
    lambert_w0_exp,
    log1p_scaled,
    power_generator,
    with_limit,
)

INF = math.inf


# Powers of r: KL, reverse KL, alpha, squared Hellinger, Pearson, Neyman.


def _power_phi(x, a, at_zero):
    return with_limit(x, at_zero, power_generator, a)


def _expm1(x, c, factor):
    return factor * expm1_scaled(x, c)


def _exp(x, c, factor):
    return factor * exp_scaled(x, c)


def _square_expm1(x, c, factor):
    return factor * jnp.square(expm1_scaled(x, c))


def _neyman_phi(x):
    return 2.0 * power_generator(x, -1.0)


def _alpha_conjugate(t, a):
    # Past the end of the range of f' the conjugate is -f(0) below (a > 1) and inf above (a < 1).
    outside = (a - 1.0) * t < -1.0
    inside = expm1_scaled(log1p_scaled(jnp.where(outside, 0.0, t), a - 1.0), a)
    return jnp.where(outside, -1.0 / a if a > 1.0 else jnp.inf, inside)


def _hellinger_conjugate(t):
    return inf_from(t, 1.0, lambda u: u / (1.0 - u))


def _pearson_conjugate(t):
    return jnp.where(t >= -2.0, t + jnp.square(t) / 4.0, jnp.where(jnp.isnan(t), t, -1.0))


def _neyman_conjugate(t):
    return jnp.where(t > 1.0, jnp.inf, 2.0 * t / (1.0 + jnp.sqrt(jnp.maximum(1.0 - t, 0.0))))


def _power_record(name: str, a: float, partner: Callable[[], FDivergence]) -> FDivergence:
    at_zero = 1.0 / a if a > 0.0 else INF
    dual_at_zero = 1.0 / (1.0 - a) if a < 1.0 else INF
    return FDivergence(
        name=name,
        phi=Formula(_power_phi, (a, at_zero)),
        phi_dual=Formula(_power_phi, (1.0 - a, dual_at_zero)),
        at_zero=at_zero,
        dual_at_zero=dual_at_zero,
        link=Formula(_expm1, (a - 1.0, 1.0)),
        weight=Formula(_exp, (a, 1.0)),
        score=Formula(_expm1, (a, -1.0)),
        conjugate=Formula(_alpha_conjugate, (a,)),
        link_at_zero=-1.0 / (a - 1.0) if a > 1.0 else -INF,
        score_at_infinity=1.0 / a if a < 0.0 else -INF,
        curvature=1.0,
        score_drop=Formula(_exp, (a, -1.0 / a)) if a > 0.0 else None,
        partner=partner,
    )


def kl() -> FDivergence:
    r"""KL(p || q) = E_q[r log r - r + 1], r = p/q: large where q misses mass of p.

    Source: Kullback and Leibler 1951; f-GAN (arXiv:1606.00709) table 1.

    >>> round(float(kl().value(jnp.log(2.0))), 6)  # 2 log 2 - 1
    0.386294
    """
    return _power_record("kl", 1.0, reverse_kl)


def reverse_kl() -> FDivergence:
    r"""KL(q || p) = E_q[r - 1 - log r], r = p/q: large where q puts mass that p has not.

    Source: f-GAN (arXiv:1606.00709) table 1.

    >>> round(float(reverse_kl().value(jnp.log(2.0))), 6)  # 1 - log 2
    0.306853
    """
    return _power_record("reverse_kl", 0.0, kl)


def alpha(a: float) -> FDivergence:
    r"""The power (Cressie-Read, Amari) divergence E_q[(r^a - a r - (1 - a)) / (a (a - 1))], r = p/q.

    a = 1 is `kl` and a = 0 is `reverse_kl`, exactly and continuously; a = 1/2 is 2 * `squared_hellinger`, a = 2 is
    `pearson_chi2` / 2, a = -1 is `neyman_chi2` / 2. Reversal takes a to 1 - a.

    Args:
        a: a real number in [-10,000, 10,000]; larger values punish r > 1 more.

    Raises:
        ValueError: a is not such a number.

    Source: Cressie and Read 1984; Amari 2009. The f-DPO paper's alpha is 1 - a.

    >>> round(float(alpha(0.5).value(jnp.log(4.0))), 6)  # 2 (sqrt 4 - 1)^2
    2.0
    """
    a = real_parameter("alpha", "a", a)
    check_range("alpha", "a", a, -1e4, 1e4)
    return _power_record(f"alpha({a!r})", a, functools.partial(alpha, 1.0 - a))


def squared_hellinger() -> FDivergence:
    r"""The squared Hellinger distance E_q[(sqrt r - 1)^2] = sum (sqrt p - sqrt q)^2, without the factor 1/2 some use.

    >>> round(float(squared_hellinger().value(jnp.log(4.0))), 6)
    1.0
    """
    phi = Formula(_square_expm1, (0.5, 0.25))
    return FDivergence(
        name="squared_hellinger",
        phi=phi,
        phi_dual=phi,
        at_zero=1.0,
        dual_at_zero=1.0,
        link=Formula(_expm1, (-0.5, 0.5)),
        weight=Formula(_exp, (0.5, 0.5)),
        score=Formula(_expm1, (0.5, -0.5)),
        conjugate=Formula(_hellinger_conjugate),
        link_at_zero=-INF,
        score_at_infinity=-INF,
        curvature=0.5,
        score_drop=Formula(_exp, (0.5, -1.0)),
        partner=squared_hellinger,
    )


def pearson_chi2() -> FDivergence:
    r"""Pearson's chi-squared divergence E_q[(r - 1)^2] = sum (p - q)^2 / q.

    >>> round(float(pearson_chi2().value(jnp.log(3.0))), 5)
    4.0
    """
    return FDivergence(
        name="pearson_chi2",
        phi=Formula(_square_expm1, (1.0, 1.0)),
        phi_dual=Formula(_neyman_phi),
        at_zero=1.0,
        dual_at_zero=INF,
        link=Formula(_expm1, (1.0, 2.0)),
        weight=Formula(_exp, (2.0, 2.0)),
        score=Formula(_expm1, (2.0, -2.0)),
        conjugate=Formula(_pearson_conjugate),
        link_at_zero=-2.0,
        score_at_infinity=-INF,
        curvature=2.0,
        score_drop=Formula(_exp, (2.0, -1.0)),
        partner=neyman_chi2,
    )


def neyman_chi2() -> FDivergence:
    r"""Neyman's chi-squared divergence E_q[(r - 1)^2 / r] = sum (p - q)^2 / p.

    >>> round(float(neyman_chi2().value(jnp.log(2.0))), 6)
    0.5
    """
    return FDivergence(
        name="neyman_chi2",
        phi=Formula(_neyman_phi),
        phi_dual=Formula(_square_expm1, (1.0, 1.0)),
        at_zero=INF,
        dual_at_zero=1.0,
        link=Formula(_expm1, (-2.0, 2.0)),
        weight=Formula(_exp, (-1.0, 2.0)),
        score=Formula(_expm1, (-1.0, -2.0)),
        conjugate=Formula(_neyman_conjugate),
        link_at_zero=-INF,
        score_at_infinity=-2.0,
        curvature=2.0,
        partner=pearson_chi2,
    )


# Sums and kinks: Jeffreys, total variation, Le Cam.


def _x_expm1(x):
    return x * expm1_scaled(x)


def _jeffreys_phi(x):
    return with_limit(x, INF, _x_expm1)


def _jeffreys_weight(x):
    return jnp.exp(x) + 1.0


@jax.custom_jvp
def _jeffreys_point(t):
    """The log-ratio x with link(x) = x - expm1(-x) = t: -log W_0(e^{1-t}), made accurate near t = 0 by Newton steps."""
    w = lambert_w0_exp(1.0 - t)
    x = jnp.where(t < 0.0, -jnp.log(w), t - 1.0 + w)
    for _ in range(2):
        x = x - (x - jnp.expm1(-x) - t) / (1.0 + jnp.exp(-x))
    return x


@_jeffreys_point.defjvp
def _jeffreys_point_jvp(primals, tangents):
    (t,), (dt,) = primals, tangents
    x = _jeffreys_point(t)
    return x, jax.nn.sigmoid(x) * dt


def _jeffreys_link(x):
    return x - expm1_scaled(-x)


def _jeffreys_score(x):
    return -x - expm1_scaled(x)


def _jeffreys_conjugate(t):
    x = _jeffreys_point(t)
    return x + expm1_scaled(x)


def jeffreys() -> FDivergence:
    r"""Jeffreys' divergence KL(p || q) + KL(q || p) = E_q[(r - 1) log r].

    >>> round(float(jeffreys().value(jnp.log(2.0))), 6)
    0.693147
    """
    phi = Formula(_jeffreys_phi)
    return FDivergence(
        name="jeffreys",
        phi=phi,
        phi_dual=phi,
        at_zero=INF,
        dual_at_zero=INF,
        link=Formula(_jeffreys_link),
        weight=Formula(_jeffreys_weight),
        score=Formula(_jeffreys_score),
        conjugate=Formula(_jeffreys_conjugate),
        link_at_zero=-INF,
        score_at_infinity=-INF,
        curvature=2.0,
        partner=jeffreys,
    )


def _variation_phi(x):
    return -expm1_scaled(x) / 2.0


def _half_sign(x, factor):
    return factor * jnp.sign(x)


def _zero(x):
    return jnp.where(jnp.isnan(x), x, 0.0)


def _variation_drop(x):
    return -0.5 * (1.0 + jnp.sign(x))


def _variation_conjugate(t):
    return jnp.where(t > 0.5, jnp.inf, jnp.maximum(t, -0.5))


def total_variation() -> FDivergence:
    r"""The total variation distance E_q[|r - 1| / 2] = sum |p - q| / 2, in [0, 1].

    f has a kink at r = 1: `is_smooth` is False, weight is 0 almost everywhere and `normalized` raises.

    >>> round(float(total_variation().value(jnp.log(3.0))), 6)
    1.0
    """
    phi = Formula(_variation_phi)
    return FDivergence(
        name="total_variation",
        phi=phi,
        phi_dual=phi,
        at_zero=0.5,
        dual_at_zero=0.5,
        link=Formula(_half_sign, (0.5,)),
        weight=Formula(_zero),
        score=Formula(_half_sign, (-0.5,)),
        conjugate=Formula(_variation_conjugate),
        link_at_zero=-0.5,
        score_at_infinity=-0.5,
        curvature=None,
        score_drop=Formula(_variation_drop),
        partner=total_variation,
    )


def _le_cam_phi(x):
    # As (r - 1)^2 / (r + 1) and not by tanh, whose derivative 1 - tanh^2 is rounding far from x = 0.
    return jnp.square(expm1_scaled(x)) / (1.0 + jnp.exp(x))


def _le_cam_link(x):
    return jnp.tanh(x / 2.0) * (1.0 + 2.0 * jax.nn.sigmoid(-x))


def _le_cam_weight(x):
    return 8.0 * jnp.square(jax.nn.sigmoid(x)) * jax.nn.sigmoid(-x)


def _le_cam_score(x):
    return -jnp.tanh(x / 2.0) * (1.0 + 2.0 * jax.nn.sigmoid(x))


def _le_cam_drop(x):
    return -4.0 * jnp.square(jax.nn.sigmoid(x))


def _le_cam_conjugate(t):
    root = jnp.sqrt(jnp.maximum(1.0 - t, 0.0))
    inside = t * (3.0 - root) / (1.0 + root)
    return jnp.where(t > 1.0, jnp.inf, jnp.where(t < -3.0, -1.0, inside))


def le_cam() -> FDivergence:
    r"""The Vincze-Le Cam (triangular) divergence E_q[(r - 1)^2 / (r + 1)] = sum (p - q)^2 / (p + q).

    >>> round(float(le_cam().value(jnp.log(3.0))), 6)
    1.0
    """
    phi = Formula(_le_cam_phi)
    return FDivergence(
        name="le_cam",
        phi=phi,
        phi_dual=phi,
        at_zero=1.0,
        dual_at_zero=1.0,
        link=Formula(_le_cam_link),
        weight=Formula(_le_cam_weight),
        score=Formula(_le_cam_score),
        conjugate=Formula(_le_cam_conjugate),
        link_at_zero=-3.0,
        score_at_infinity=-3.0,
        curvature=1.0,
        score_drop=Formula(_le_cam_drop),
        partner=le_cam,
    )
