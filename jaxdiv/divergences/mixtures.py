"""The named f-divergences to a mixture m = pi p + (1 - pi) q: Jensen-Shannon, skew KL, softened reverse KL.

In units of q, m = pi r + 1 - pi. With s = log(r / m), and the generators K of KL and R of reverse KL, each value is a
sum of non-negative terms, so nothing cancels near r = 1, pi = 0 or pi = 1.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_range
from jaxdiv.divergences.record import FDivergence, Formula, no_conjugate, real_parameter, swap
from jaxdiv.numerics import expm1_scaled, inf_from, lambert_wm1_exp, log1p, log_mix, power_generator, with_limit

_LEAST = 1e-12


def _share(function: str, pi: float) -> float:
    pi = real_parameter(function, "pi", pi)
    check_range(function, "pi", pi, _LEAST, 1.0 - _LEAST)
    return pi


# co is 1 - pi, handed along because 1 - (1 - pi) is not pi when pi is small.


def _log_m(x, pi, co, factor=1.0):
    """Factor * log m."""
    return factor * log_mix(x, pi, co)


def _log_r_over_m(x, pi, co, factor=1.0):
    """Factor * s = factor * log(r / m)."""
    return -factor * log_mix(-x, co, pi)


def _sigmoid(x, shift, factor):
    """A multiple of sigmoid(x + shift); pi r / m is sigmoid(x + logit pi)."""
    return factor * jax.nn.sigmoid(x + shift)


def _logit(pi):
    return math.log(pi) - math.log1p(-pi)


# Jensen-Shannon: pi KL(p || m) + (1 - pi) KL(q || m), f = m [pi K(s) + (1 - pi) K(-log m)].


def _js_finite(x, pi, co):
    log_m, s = _log_m(x, pi, co), _log_r_over_m(x, pi, co)
    return jnp.exp(log_m) * (pi * power_generator(s, 1.0) + co * power_generator(-log_m, 1.0))


def _js_phi(x, pi, co, at_zero):
    return with_limit(x, at_zero, _js_finite, pi, co)


def _js_conjugate_finite(t, pi, co):
    return -co * log1p(-pi / co * jnp.expm1(t / pi))


def _js_conjugate(t, pi, co, dual_at_zero):
    return inf_from(t, dual_at_zero, _js_conjugate_finite, pi, co)


def _js_drop(x, odds, co):
    return -co * log1p(odds * jnp.exp(x))


def jensen_shannon(pi: float = 0.5) -> FDivergence:
    r"""The Jensen-Shannon divergence pi KL(p || m) + (1 - pi) KL(q || m), m = pi p + (1 - pi) q.

    f = pi r log r - (pi r + 1 - pi) log(pi r + 1 - pi). pi = 1/2 is the standard one, at most log 2; GAN and f-DPO
    papers use twice it. It vanishes with pi at both ends; `normalized()` divides by pi (1 - pi), which runs from
    KL(p || q) at pi = 0 to KL(q || p) at pi = 1. Reversal takes pi to 1 - pi.

    Args:
        pi: the share of p in the mixture, in [1e-12, 1 - 1e-12].

    Raises:
        ValueError: pi is not a real number in that interval.

    Source: Lin, "Divergence measures based on the Shannon entropy", 1991.

    >>> round(float(jensen_shannon().value(jnp.log(3.0))), 6)  # (3 log 3 - 4 log 2) / 2
    0.261624
    """
    pi = _share("jensen_shannon", pi)
    co = 1.0 - pi
    at_zero, dual_at_zero = -co * math.log1p(-pi), -pi * math.log(pi)
    return FDivergence(
        name=f"jensen_shannon({pi!r})",
        phi=Formula(_js_phi, (pi, co, at_zero)),
        phi_dual=Formula(_js_phi, (co, pi, dual_at_zero)),
        at_zero=at_zero,
        dual_at_zero=dual_at_zero,
        link=Formula(_log_r_over_m, (pi, co, pi)),
        weight=Formula(_sigmoid, (_logit(pi), co)),
        score=Formula(_log_m, (pi, co, -co)),
        conjugate=Formula(_js_conjugate, (pi, co, dual_at_zero)),
        link_at_zero=-math.inf,
        score_at_infinity=-math.inf,
        curvature=pi * co,
        score_drop=Formula(_js_drop, (pi / co, co)),
        partner=functools.partial(jensen_shannon, max(co, _LEAST)),
    )


# Skew KL: KL(p || m), f = m K(s); its reversal is R(log m') with m' = pi + (1 - pi) r.


def _skew_finite(x, pi, co):
    return jnp.exp(_log_m(x, pi, co)) * power_generator(_log_r_over_m(x, pi, co), 1.0)


def _skew_phi(x, pi, co):
    return with_limit(x, co, _skew_finite, pi, co)


def _skew_phi_dual(x, pi, co):
    return power_generator(_log_m(x, co, pi), 0.0)


def _skew_link(x, pi, co):
    s = _log_r_over_m(x, pi, co)
    return co * s - pi * power_generator(s, 0.0)


def _skew_weight(x, pi, co):
    z = x + _logit(pi)
    return co / pi * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z)


def _skew_score(x, pi, co):
    return -co * expm1_scaled(_log_r_over_m(x, pi, co))


def _skew_drop(x, pi, co):
    return -co * jnp.exp(x) / (pi * jnp.exp(x) + co)


def skew_kl(pi: float) -> FDivergence:
    r"""The skew KL divergence KL(p || pi p + (1 - pi) q), bounded by -log pi.

    f = r log(r / (pi r + 1 - pi)) - (1 - pi)(r - 1). Its conjugate has no closed form: asking for it raises.

    Args:
        pi: the share of p in the mixture, in [1e-12, 1 - 1e-12]; near 0 it is `kl`.

    Raises:
        ValueError: pi is not a real number in that interval.

    Source: Lee, "On the effectiveness of the skew divergence", 2001; DistiLLM (arXiv:2402.03898, equation 4).

    >>> round(float(skew_kl(0.5).value(jnp.log(3.0))), 6)  # 3 log(3/2) - 1
    0.216395
    """
    pi = _share("skew_kl", pi)
    name, co = f"skew_kl({pi!r})", 1.0 - pi
    return FDivergence(
        name=name,
        phi=Formula(_skew_phi, (pi, co)),
        phi_dual=Formula(_skew_phi_dual, (pi, co)),
        at_zero=co,
        dual_at_zero=-math.log(pi) - co,
        link=Formula(_skew_link, (pi, co)),
        weight=Formula(_skew_weight, (pi, co)),
        score=Formula(_skew_score, (pi, co)),
        conjugate=Formula(no_conjugate, (name,)),
        link_at_zero=-math.inf,
        score_at_infinity=-(co**2) / pi,
        curvature=co**2,
        score_drop=Formula(_skew_drop, (pi, co)),
        partner=functools.partial(_skew_reversed, pi),
    )


def _skew_reversed_weight(x, pi):
    return jnp.square(jax.nn.sigmoid(x - _logit(pi)))


def _skew_reversed_drop(x, odds):
    """The score less at_zero, -(u + expm1(-u)) at u = log(1 + odds r)."""
    return -power_generator(-log1p(odds * jnp.exp(x)), 0.0)


def _skew_reversed(pi: float) -> FDivergence:
    """KL(q || pi q + (1 - pi) p) as a function of r = p/q, its weight without the factor e^x that overflows."""
    weight = Formula(_skew_reversed_weight, (pi,))
    drop = Formula(_skew_reversed_drop, ((1.0 - pi) / pi,))
    return dataclasses.replace(swap(skew_kl(pi)), weight=weight, score_drop=drop)


# Softened reverse KL: 2 KL(m || p) at pi = 1/2, f = 2 m R(s); its reversal is 2 K(log m).


def _softened_phi(x):
    return 2.0 * jnp.exp(log_mix(x, 0.5, 0.5)) * power_generator(_log_r_over_m(x, 0.5, 0.5), 0.0)


def _softened_phi_dual(x):
    return 2.0 * power_generator(log_mix(x, 0.5, 0.5), 1.0)


def _softened_link(x):
    x = jnp.maximum(x, -1e4)  # e^{-x} is inf long before; at -inf itself the sum would be inf - inf
    return log_mix(-x, 0.5, 0.5) - expm1_scaled(-x)


@jax.custom_jvp
def _softened_point(t):
    """The u in [-log 2, inf) with u - 2 expm1(u) = t: log(y / 2), y = -W_{-1}(-2 e^{t-2}), then two Newton steps."""
    u = jnp.log(-lambert_wm1_exp(2.0 - math.log(2.0) - t) / 2.0)
    for _ in range(2):
        slope = 1.0 - 2.0 * jnp.exp(u)
        u = jnp.where(slope < -1e-2, u - (u - 2.0 * jnp.expm1(u) - t) / jnp.minimum(slope, -1e-2), u)
    return u


@_softened_point.defjvp
def _softened_point_jvp(primals, tangents):
    (t,), (dt,) = primals, tangents
    u = _softened_point(t)
    return u, dt / (1.0 - 2.0 * jnp.exp(u))


def _softened_conjugate(t):
    return jnp.where(t > 1.0 - math.log(2.0), jnp.inf, -_softened_point(jnp.minimum(t, 1.0 - math.log(2.0))))


def _softened_score(x):
    return log_mix(-x, 0.5, 0.5)


def _sigmoid_of_minus(x):
    return jax.nn.sigmoid(-x)


def _softened_reversed_score(x):
    return _softened_link(-x)


def _softened_reversed_weight(x):
    return jnp.exp(x) * jax.nn.sigmoid(x)


def _softened_reversed_drop(x):
    return -power_generator(log1p(jnp.exp(x)), 0.0)


def _softened_reversed_conjugate(t):
    return 2.0 * jnp.expm1(jnp.maximum(t, -math.log(2.0))) - jnp.maximum(t, -math.log(2.0))


def softened_reverse_kl() -> FDivergence:
    r"""The softened reverse KL 2 KL(m || p), m = (p + q) / 2, of f-distill.

    f = (r + 1) log((r + 1) / (2 r)) + r - 1; its weight is 1 / (1 + r).

    Source: Xu, Nie, Vahdat, "One-step diffusion models with f-divergence distribution matching" (arXiv:2502.15681).

    >>> round(float(softened_reverse_kl().value(jnp.log(3.0))), 6)  # 4 log(2/3) + 2
    0.37814
    """
    return FDivergence(
        name="softened_reverse_kl",
        phi=Formula(_softened_phi),
        phi_dual=Formula(_softened_phi_dual),
        at_zero=math.inf,
        dual_at_zero=1.0 - math.log(2.0),
        link=Formula(_softened_link),
        weight=Formula(_sigmoid_of_minus),
        score=Formula(_softened_score),
        conjugate=Formula(_softened_conjugate),
        link_at_zero=-math.inf,
        score_at_infinity=-math.log(2.0),
        curvature=0.5,
        partner=_softened_reversed,
    )


def _softened_reversed() -> FDivergence:
    """2 KL(m || q): f^(r) = (1 + r) log((1 + r) / 2) + 1 - r, whose conjugate is 2 expm1(t) - t from t = -log 2 on."""
    return FDivergence(
        name="reversed(softened_reverse_kl)",
        phi=Formula(_softened_phi_dual),
        phi_dual=Formula(_softened_phi),
        at_zero=1.0 - math.log(2.0),
        dual_at_zero=math.inf,
        link=Formula(_log_m, (0.5, 0.5)),
        weight=Formula(_softened_reversed_weight),
        score=Formula(_softened_reversed_score),
        conjugate=Formula(_softened_reversed_conjugate),
        link_at_zero=-math.log(2.0),
        score_at_infinity=-math.inf,
        curvature=0.5,
        score_drop=Formula(_softened_reversed_drop),
        partner=softened_reverse_kl,
    )
