"""The laws that tie members, fields and distributions together, in float64 without a reference implementation."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv import divergences as dv
from tests.divergences.reference import CASES, SMOOTH, WITH_CONJUGATE

P = np.array([0.5, 0.3, 0.1, 0.1])
Q = np.array([0.1, 0.2, 0.3, 0.4])
RHO = np.concatenate([np.linspace(-12.0, 12.0, 25), [-0.5, -1e-3, 1e-3, 0.5]])
close = functools.partial(np.testing.assert_allclose, rtol=2e-13, atol=0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


# 1 - (1 - pi) is pi to float64's rounding of 1 only, so the partner's parameter differs by this much.
ROUNDED = {"jensen_shannon_1e-6": 1e-9, "jensen_shannon_1-2e-27": 1e-7, "alpha_1e-12": 1e-3, "alpha_1-1e-9": 1e-6}


def between(d, p, q):
    """D_f(p || q) of two vectors of probabilities."""
    return float(jnp.sum(q * d.value(np.log(p) - np.log(q))))


@pytest.mark.parametrize("case", CASES)
def test_reversal(case):
    """f^(r) = r f(1/r) in every field: f^'(r) = score(1/r), score^(r) = f'(1/r), h^(r) = r h(1/r)."""
    d = CASES[case].make()
    back = d.reversed()
    r = np.exp(RHO)
    close = functools.partial(np.testing.assert_allclose, rtol=ROUNDED.get(case, 2e-13), atol=0)
    close(back.value(RHO), r * d.value(-RHO))
    close(back.weight(RHO), r * d.weight(-RHO))
    close(back.link(RHO), d.score(-RHO))
    close(back.score(RHO), d.link(-RHO))
    close(back.phi(RHO[RHO <= 0]), d.phi_dual(RHO[RHO <= 0]))
    close(between(back, P, Q), between(d, Q, P))
    constants = (d.dual_at_zero, d.at_zero, d.score_at_infinity, d.link_at_zero)
    close((back.at_zero, back.dual_at_zero, back.link_at_zero, back.score_at_infinity), constants)
    assert back.reversed() == d


@pytest.mark.parametrize(
    "d, partner",
    [
        (dv.kl(), dv.reverse_kl()),
        (dv.pearson_chi2(), dv.neyman_chi2()),
        (dv.alpha(0.3), dv.alpha(0.7)),
        (dv.jensen_shannon(0.3), dv.jensen_shannon(0.7)),
        *((d, d) for d in (dv.jensen_shannon(), dv.jeffreys(), dv.squared_hellinger(), dv.le_cam())),
        (dv.total_variation(), dv.total_variation()),
    ],
)
def test_reversal_of_named_pairs_is_the_named_partner(d, partner):
    assert d.reversed() == partner
    assert d.reversed().reversed() == d


def fields(d, factor=1.0):
    low = RHO[RHO <= 0]
    return [factor * np.asarray(v) for v in (d.phi(low), d.phi_dual(low), d.link(RHO), d.weight(RHO), d.score(RHO))]


@pytest.mark.parametrize(
    "a, d, factor",
    [
        (1.0, dv.kl(), 1.0),
        (0.0, dv.reverse_kl(), 1.0),
        (0.5, dv.squared_hellinger(), 2.0),
        (2.0, dv.pearson_chi2(), 0.5),
        (-1.0, dv.neyman_chi2(), 0.5),
    ],
)
def test_special_cases_of_alpha(a, d, factor):
    for one, other in zip(fields(dv.alpha(a)), fields(d, factor), strict=True):
        close(one, other)
    t = np.array([-1.5, -0.4, -1e-3, 1e-3, 0.3])
    close(dv.alpha(a).conjugate(t), factor * d.conjugate(t / factor))


@pytest.mark.parametrize("near, limit", [(1 + 1e-10, dv.kl()), (1 - 1e-10, dv.kl()), (1e-10, dv.reverse_kl())])
def test_alpha_is_continuous(near, limit):
    for one, other in zip(fields(dv.alpha(near)), fields(limit), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8)


def test_normalized_jensen_shannon_runs_from_kl_to_reverse_kl():
    """The values of p = (.5, .3, .1, .1), q = (.1, .2, .3, .4), known to 7 digits."""
    expected = {1e-8: 0.6778678, 0.25: 0.6261308, 0.5: 0.6086331, 0.9: 0.6267501, 1 - 1e-8: 0.6420646}
    for pi, value in expected.items():
        assert between(dv.jensen_shannon(pi).normalized(), P, Q) == pytest.approx(value, abs=6e-8)
    assert between(dv.kl(), P, Q) == pytest.approx(0.6778678, abs=6e-8)
    assert between(dv.reverse_kl(), P, Q) == pytest.approx(0.6420646, abs=6e-8)


@pytest.mark.parametrize("case", CASES)
def test_gauge_and_curvature(case):
    d = CASES[case].make()
    for field in (d.phi, d.phi_dual, d.value, d.link, d.score):
        assert float(field(0.0)) == 0.0
    if d.is_smooth:
        close(d.weight(0.0), d.curvature)
        close(d.normalized().weight(RHO), d.weight(RHO) / d.curvature)
        close(d.normalized().value(RHO), d.value(RHO) / d.curvature)
        assert d.normalized().curvature == 1.0 and d.normalized().normalized() == d.normalized()
        assert d.normalized().reversed().reversed() == d.normalized()
        one, other = d.normalized().reversed(), d.reversed().normalized()
        close(one.value(RHO), other.value(RHO), rtol=ROUNDED.get(case, 2e-13))


@pytest.mark.parametrize("case", CASES)
def test_convexity(case):
    """h >= 0 and f >= 0; f' rises and f - r f' falls."""
    d = CASES[case].make()
    rho = np.linspace(-30.0, 30.0, 241)
    assert (d.weight(rho) >= 0).all() and (d.value(rho) >= 0).all()
    rounding = 1e-15 * (1 + np.abs(d.link(rho)) + np.abs(d.score(rho)))[1:]
    assert (np.diff(d.link(rho)) >= -rounding).all() and (np.diff(d.score(rho)) <= rounding).all()


@pytest.mark.parametrize("case", CASES)
def test_score_is_f_minus_r_times_link(case):
    d = CASES[case].make()
    rho = np.linspace(-4.0, 4.0, 17)
    combined = d.value(rho) - np.exp(rho) * d.link(rho)
    np.testing.assert_allclose(d.score(rho), combined, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("case", WITH_CONJUGATE)
def test_fenchel_young(case):
    """f(r) + f*(t) >= r t, with equality at t = f'(r); f*(f'(r)) = -score."""
    d = CASES[case].make()
    rho = np.linspace(-4.0, 4.0, 17)
    t = d.link(rho)
    np.testing.assert_allclose(d.conjugate(t), -d.score(rho), rtol=1e-9, atol=1e-13)
    gap = d.value(rho)[:, None] + d.conjugate(t)[None, :] - np.exp(rho)[:, None] * t[None, :]
    assert (gap >= -1e-9 * (1 + np.abs(gap))).all()


@pytest.mark.parametrize("case", WITH_CONJUGATE)
def test_conjugate_outside_the_range_of_the_link(case):
    """+inf above lim f'(r), and -f(0) below f'(0)."""
    d = CASES[case].make()
    if math.isfinite(d.dual_at_zero):
        np.testing.assert_array_equal(d.conjugate(d.dual_at_zero + np.array([0.01, 1.0, 50.0])), np.inf)
    if not d.has_barrier:
        close(d.conjugate(d.link_at_zero - np.array([0.01, 1.0, 50.0])), -d.at_zero)
    assert np.isnan(d.conjugate(jnp.nan))
    assert not np.isnan(jax.grad(d.conjugate)(d.link_at_zero - 1.0 if not d.has_barrier else -3.0))


@pytest.mark.parametrize("case", [c for c in WITH_CONJUGATE if c != "total_variation"])
def test_conjugates_of_reversed_pairs_are_inverse(case):
    """The conjugate of f^ is t -> -(f*)^{-1}(-t), so f*(-f^*(t)) = -t."""
    d = CASES[case].make()
    t = d.reversed().link(np.linspace(-2.0, 2.0, 9))
    np.testing.assert_allclose(d.conjugate(-d.reversed().conjugate(t)), -t, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("case", SMOOTH)
def test_local_chi_squared(case):
    """D_f(p || q) = f''(1) / 2 * chi^2 to second order: for q (1 + e u), e = 1e-5, to 1e-4 relative."""
    d = CASES[case].make()
    u = np.array([1.0, -1.0, 2.0, -1.5])
    p = Q * (1 + 1e-5 * (u - np.sum(Q * u)))
    chi2 = float(np.sum((p - Q) ** 2 / Q))
    assert between(d, p, Q) == pytest.approx(d.curvature / 2 * chi2, rel=1e-4)


def test_sums_and_mixtures():
    kl, rkl, js, soft = dv.kl(), dv.reverse_kl(), dv.jensen_shannon(), dv.softened_reverse_kl()
    close(2 * js.weight(RHO) + soft.weight(RHO), np.ones_like(RHO))
    close(dv.jeffreys().value(RHO), kl.value(RHO) + rkl.value(RHO))
    close(dv.jeffreys().weight(RHO), kl.weight(RHO) + rkl.weight(RHO))
    close(between(dv.jeffreys(), P, Q), between(kl, P, Q) + between(kl, Q, P))
    mid = (P + Q) / 2
    close(between(soft, P, Q), 2 * between(kl, mid, P))
    assert between(soft, P, Q) == pytest.approx(0.3377480855, abs=1e-10)
    for pi in (0.2, 0.5, 0.9):
        mix = pi * P + (1 - pi) * Q
        close(between(dv.skew_kl(pi), P, Q), between(kl, P, mix))
        close(between(dv.jensen_shannon(pi), P, Q), pi * between(kl, P, mix) + (1 - pi) * between(kl, Q, mix))
        other = dv.skew_kl(1 - pi).reversed()
        close(dv.jensen_shannon(pi).weight(RHO), pi * dv.skew_kl(pi).weight(RHO) + (1 - pi) * other.weight(RHO))
    np.testing.assert_allclose(between(dv.skew_kl(1e-9), P, Q), between(kl, P, Q), rtol=1e-7)


def test_closed_forms_on_vectors():
    close(between(dv.pearson_chi2(), P, Q), np.sum((P - Q) ** 2 / Q))
    close(between(dv.neyman_chi2(), P, Q), np.sum((P - Q) ** 2 / P))
    close(between(dv.squared_hellinger(), P, Q), np.sum((np.sqrt(P) - np.sqrt(Q)) ** 2))
    close(between(dv.le_cam(), P, Q), np.sum((P - Q) ** 2 / (P + Q)))
    close(between(dv.total_variation(), P, Q), np.sum(np.abs(P - Q)) / 2)
    close(between(dv.alpha(0.3), P, Q), (1 - np.sum(P**0.3 * Q**0.7)) / 0.21)


def test_classical_inequalities():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, q = rng.dirichlet(np.ones(6), size=2)
        tv, hellinger = between(dv.total_variation(), p, q), between(dv.squared_hellinger(), p, q)
        assert tv <= math.sqrt(between(dv.kl(), p, q) / 2)
        assert hellinger <= 2 * tv <= 2 * math.sqrt(hellinger)
        assert between(dv.jensen_shannon(), p, q) <= math.log(2) * tv


@pytest.mark.parametrize(
    "d, expected",
    [
        (dv.kl(), 0.5 * (math.log(1.44) + (1 + 0.25) / 1.44 - 1)),
        (dv.squared_hellinger(), 2 - 2 * math.sqrt(2.4 / 2.44) * math.exp(-0.25 / (4 * 2.44))),
    ],
)
def test_gaussians_by_quadrature(d, expected):
    """E_q f(p/q) of p = N(0, 1), q = N(1/2, 1.2^2) by the trapezoidal rule against the closed form."""
    x = np.linspace(-15.0, 15.0, 4001)
    log_p = -(x**2) / 2 - math.log(2 * math.pi) / 2
    log_q = -((x - 0.5) ** 2) / 2.88 - math.log(2 * math.pi * 1.44) / 2
    value = np.trapezoid(np.exp(log_q) * np.asarray(d.value(log_p - log_q)), x)
    assert value == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("case", SMOOTH)
def test_gradients_by_finite_differences(case):
    d = CASES[case].make()
    rho, step = np.array([-3.1, -0.6, 0.4, 2.7]), 1e-6
    for field in (d.value, d.link, d.weight, d.score):
        slope = (field(rho + step) - field(rho - step)) / (2 * step)
        scale = np.max(np.abs(field(rho)))
        np.testing.assert_allclose(jax.vmap(jax.grad(field))(rho), slope, rtol=1e-6, atol=1e-9 * (1 + scale))
