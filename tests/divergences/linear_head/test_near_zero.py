"""Polynomials near 0 against mpmath, and the sums that the first pass gives against those of the terms."""

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxdiv.divergences import alpha, jensen_shannon, kl, reverse_kl
from jaxdiv.divergences.families import Renyi
from jaxdiv.divergences.linear_head import near_zero, terms
from jaxdiv.divergences.linear_head.early import early_parts, early_power, early_sums, num_early_parts, total_lse
from jaxdiv.divergences.linear_head.rows import Objective
from jaxdiv.divergences.linear_head.terms import category_terms, rough_slope
from tests.divergences.linear_head.cases import name_of

POINTS = np.concatenate([-np.logspace(-0.01, -6, 40), [0.0], np.logspace(-6, -0.01, 40)])
_e = mpmath.expm1


def _power(rho, a):
    if a == 1:
        return rho * mpmath.exp(rho) - _e(rho)
    return _e(rho) - rho if a == 0 else (_e(a * rho) - a * _e(rho)) / (a * (a - 1))


def _log_mixture(rho, pi):
    return mpmath.log1p(pi * _e(rho))


def _mixture(rho, pi):
    return pi * rho * mpmath.exp(rho) - (1 + pi * _e(rho)) * _log_mixture(rho, pi)


FUNCTIONS = {
    "power": (terms._power_score, _power, 2, (-1.0, 0.0, 0.1, 0.5, 1.0, 2.0)),
    "power_slope": (terms._power_slope, lambda rho, a: -_e(a * rho) / a, 1, (-1.0, 0.1, 0.3, 0.5, 1.0, 2.0)),
    "log_mixture": (terms._log_mixture, _log_mixture, 1, (0.01, 0.5, 0.99)),
    "mixture": (terms._mixture_score, _mixture, 2, (0.01, 0.5, 0.99)),
}


def test_leading_coefficients_that_are_exactly_zero_stay_zero(monkeypatch):
    # Whether rounding leaves an exact zero depends on the processor; numpy then returns a shorter table.
    near_zero.coefficients.cache_clear()
    monkeypatch.setattr(near_zero.chebyshev, "chebfit", lambda t, y, degree: np.array([0.5, 0.5, 0.0, 0.0]))
    assert near_zero.coefficients(lambda rho: rho, (), 1, near_zero.Near(1.0, 3)) == (0.5, 0.5, 0.0, 0.0)
    near_zero.coefficients.cache_clear()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_relative_error_near_zero(name, dtype, x64):
    ours, exact, order, parameters = FUNCTIONS[name]
    rho = jnp.asarray(POINTS, dtype)
    for parameter in parameters:
        near = near_zero.FLOAT32 if dtype == "float32" else near_zero.FLOAT64
        got = near_zero.near_zero(ours, order, rho, near, parameter)
        assert got.dtype == rho.dtype
        with mpmath.workdps(40):
            expected = [float(exact(mpmath.mpf(float(x)), mpmath.mpf(parameter))) for x in rho]
        np.testing.assert_allclose(got, expected, rtol=6e-7 if dtype == "float32" else 3e-14)


COARSE = [kl(), reverse_kl(), alpha(0.3), alpha(0.7), *map(jensen_shannon, (0.01, 0.1, 0.5, 0.99))]


@pytest.mark.parametrize("divergence", COARSE, ids=name_of)
def test_coarse_terms(divergence, x64):
    """Half of float16's rounding of the log-ratio at most, however close the models."""
    size = np.concatenate([np.logspace(-5, np.log10(0.25), 200), np.linspace(0.25, 12.0, 200)])
    rho = np.concatenate([-size, size])
    rho = rho.astype(np.float32).astype(np.float64)
    log_p, log_q = -1.0 + np.minimum(rho, 0.0), -1.0 - np.maximum(rho, 0.0)
    exact = category_terms(divergence, jnp.asarray(log_p), jnp.asarray(log_q))
    log_p, log_q, rho = (jnp.asarray(x, jnp.float32) for x in (log_p, log_q, rho))
    coarse = category_terms(divergence, log_p, log_q, rho=rho, coarse=True)
    for got, wanted in zip(coarse, exact, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=2.0**-13)


def test_which_have_early_sums():
    assert [early_power(Objective(d)) for d in (kl(), reverse_kl(), alpha(0.3))] == [1.0, 0.0, 0.3]
    assert early_power(Objective(kl().normalized())) == 1.0
    assert all(early_power(Objective(d)) is None for d in (jensen_shannon(), alpha(0.05), alpha(3.0)))
    assert [num_early_parts(Objective(kl(), differentiate_p=both)) for both in (False, True)] == [0, 1]


@pytest.mark.parametrize(
    "divergence", [kl(), reverse_kl(), reverse_kl().normalized(), alpha(0.3), alpha(-1.0), alpha(2.0)]
)
def test_early_sums_are_those_of_the_terms(divergence, x64):
    """Rows in three segments, with a category that neither has."""
    rng = np.random.default_rng(0)
    q = 4.0 * rng.normal(size=(5, 3, 16))
    p = q + rng.normal(size=q.shape)
    p[:, 1, 3] = q[:, 1, 3] = -np.inf
    objective = Objective(divergence, differentiate_p=True)
    tops, sums = zip(*((x.max(-1), np.exp(x - x.max(-1, keepdims=True)).sum(-1)) for x in (p, q)), strict=True)
    p, q = jnp.asarray(p), jnp.asarray(q)

    def parts_of(i, j):
        return early_parts(objective, p[i, j], q[i, j], tops[0][i, j], tops[1][i, j], True)

    segments = [[parts_of(i, j) for j in range(3)] for i in range(5)]
    parts = list(np.moveaxis(np.asarray(segments), -1, 0)) if num_early_parts(objective) else []
    assert len(parts) == num_early_parts(objective)
    lses = [total_lse(jnp.asarray(t), jnp.asarray(s)) for t, s in zip(tops, sums, strict=True)]
    got = early_sums(objective, parts, jnp.asarray(tops[0]), jnp.asarray(tops[1]), *lses)
    log_p, log_q = (jnp.asarray(x.reshape(5, -1)) - lse[:, None] for x, lse in zip((p, q), lses, strict=True))
    there, back = category_terms(divergence, log_p, log_q), category_terms(divergence.reversed(), log_q, log_p)
    np.testing.assert_allclose(got.slope_q, there.slope.sum(-1), atol=1e-9)
    np.testing.assert_allclose(got.slope_p, back.slope.sum(-1), atol=1e-9)


def test_the_first_pass_gives_renyis_log_of_its_integral(x64):
    """Also for orders whose sums are not early; a category that p or q lacks has no term."""
    p, q = jnp.asarray(4.0 * np.random.default_rng(0).normal(size=(2, 48)))
    p, q = p.at[3].set(-jnp.inf), q.at[5].set(-jnp.inf)
    for order in (0.7, 1.05, 2.5):
        objective = Objective(alpha(order), Renyi(order))
        assert num_early_parts(objective) == 2
        parts = early_parts(objective, p, q, jnp.max(p), jnp.max(q), True)
        mixed = jnp.delete(order * p + (1.0 - order) * q, jnp.array([3, 5]))
        np.testing.assert_allclose(total_lse(*(x[None] for x in parts)), jnp.log(jnp.sum(jnp.exp(mixed))), rtol=1e-12)


@pytest.mark.parametrize("pi", [0.01, 0.5, 0.9])
def test_rough_slope(pi):
    rng = np.random.default_rng(1)
    log_q = np.append(rng.uniform(-12.0, 0.0, 200), [-np.inf, -3.0, -np.inf])
    log_p = np.append(log_q[:200] + 5.0 * rng.normal(size=200), [-2.0, -np.inf, -np.inf])
    log_p, log_q = jnp.asarray(log_p, jnp.float32), jnp.asarray(log_q, jnp.float32)
    divergence = jensen_shannon(pi).normalized()
    exact, q = category_terms(divergence, log_p, log_q).slope, jnp.exp(log_q)
    limit = 1e-5 * q / min(pi, 1 - pi) + 1e-30
    np.testing.assert_array_less(jnp.abs(rough_slope(divergence, log_p, log_q) - exact), limit)
