"""The cheap category terms against the record and mpmath, over log-ratios from -60 to 60 and at the edges."""

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxdiv import divergences as jd
from jaxdiv.divergences.linear_head.terms import category_terms, divergence_family
from tests.divergences.reference import CASES

RATIOS = np.concatenate([-np.logspace(-4, np.log10(60), 40), [0.0], np.logspace(-4, np.log10(60), 40)])

CHEAP = [name for name, case in CASES.items() if divergence_family(case.make())[0] != "general"]


def test_the_usual_ones_are_cheap():
    assert {"kl", "reverse_kl", "jensen_shannon", "jensen_shannon_normalized", "alpha_03"} <= set(CHEAP)


@pytest.mark.parametrize("name", CASES)
def test_terms_against_mpmath(name):
    """q f(r) and q (f - r f') with the smaller probability e^-|rho| of the larger one, 0.3."""
    case = CASES[name]
    divergence = case.make()
    base = np.float32(np.log(0.3))
    rho = RATIOS.astype(np.float32)
    log_p, log_q = base + np.minimum(rho, 0), base + np.minimum(-rho, 0)
    terms = category_terms(divergence, jnp.asarray(log_p), jnp.asarray(log_q))
    for i in range(len(rho)):
        p, q = mpmath.exp(mpmath.mpf(float(log_p[i]))), mpmath.exp(mpmath.mpf(float(log_q[i])))
        r = p / q
        value, slope = q * case.f(r), q * (case.f(r) - r * case.slope(r))
        if max(abs(value), abs(slope)) > 1e37:
            continue  # intermediate powers are over float32's range
        gap = abs(float(log_p[i]) - float(log_q[i]))
        # Near r = 1 the terms are differences: their absolute error is that of float32 times the gap.
        slack = 2e-6 * float(abs(value)) + 2e-6 * float(max(p, q)) * min(gap, 1.0)
        assert abs(float(terms.value[i]) - float(value)) <= slack * (1 + gap), (rho[i], float(value))
        scale = float(max(abs(slope), max(p, q) * gap if gap < 1 else 0))
        # The record's own formulas for p > q are a difference whose error is relative to p.
        slack = 4e-6 * scale * (1 + gap) + (1e-12 if name in CHEAP else 2e-6 * float(max(p, q)))
        assert abs(float(terms.slope[i]) - float(slope)) <= slack, (rho[i], float(slope))
        np.testing.assert_allclose(terms.q[i], float(q), rtol=(1 + gap) * 1e-6)


@pytest.mark.parametrize("make", [case.make for case in CASES.values()], ids=list(CASES))
def test_edges(make):
    """p = 0, q = 0, both, and probabilities that underflow float32."""
    divergence = make()
    log_p = jnp.array([-jnp.inf, np.log(0.25), -jnp.inf, -200.0])
    log_q = jnp.array([np.log(0.25), -jnp.inf, -jnp.inf, -200.0])
    terms = category_terms(divergence, log_p, log_q)
    expected = [0.25 * divergence.at_zero, 0.25 * divergence.dual_at_zero, 0.0, 0.0]
    np.testing.assert_allclose(terms.value, expected, rtol=1e-6)
    np.testing.assert_allclose(terms.slope, [0.25 * divergence.at_zero, 0.0, 0.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(terms.q, [0.25, 0.0, 0.0, 0.0], rtol=1e-6)


def test_equal_probabilities_add_nothing():
    log_p = jnp.log(jnp.linspace(0.01, 1.0, 7))
    for divergence in (jd.kl(), jd.alpha(0.3), jd.jensen_shannon(0.2), jd.jeffreys(), jd.total_variation()):
        assert not np.any(category_terms(divergence, log_p, log_p).value)


@pytest.mark.parametrize("a", [0.1, 0.3, 0.5, 0.9])
def test_powers_of_improbable_categories_keep_their_digits(a):
    """Their log-probabilities are large, and so is what is lost where the exponent is formed from them."""
    rng = np.random.default_rng(0)
    log_q = rng.uniform(-18.0, -2.0, 300).astype(np.float32)
    log_p = np.minimum(log_q + (rng.uniform(1.0, 3.0, 300) * rng.choice([-1.0, 1.0], 300)).astype(np.float32), 0.0)
    terms = category_terms(jd.alpha(a), jnp.asarray(log_p), jnp.asarray(log_q))
    r = np.exp(log_p.astype(np.float64) - log_q.astype(np.float64))
    q = np.exp(log_q.astype(np.float64))
    np.testing.assert_allclose(terms.value, q * (r**a - a * r - (1.0 - a)) / (a * (a - 1.0)), rtol=6e-6)
    np.testing.assert_allclose(terms.slope, q * (1.0 - r**a) / a, rtol=4e-6)
