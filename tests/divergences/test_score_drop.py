"""The score counted from f(0), against mpmath, far below r = 1 where the difference itself has no digits left."""

import jax
import mpmath
import numpy as np
import pytest

from jaxdiv import divergences as dv
from tests.divergences.logits_oracle import limits
from tests.divergences.reference import CASES

RHO = -np.array([0.0, 1e-3, 0.3, 1.0, 2.5, 7.0, 15.0, 31.0])


def check(name, dtype):
    make, f, slope, _ = CASES[name]
    d, at_zero = make(), limits(name)[0]
    if not np.isfinite(d.at_zero):
        assert d.score_drop is None
        return
    x = RHO.astype(dtype)
    got = d.score_drop(x)
    assert got.dtype == dtype
    r = [mpmath.exp(mpmath.mpf(float(v))) for v in x]
    exact = [f(v) - v * slope(v) - at_zero for v in r]
    for g, e, v in zip(got, exact, x, strict=True):
        if abs(e) > float(np.finfo(dtype).tiny):
            units = 16 + 3 * abs(float(v))  # e^{c rho} has the condition number c rho
            assert abs(float(g) / e - 1) <= units * float(np.finfo(dtype).eps), f"rho = {v}"
        else:
            assert abs(float(g)) <= float(np.finfo(dtype).tiny)


@pytest.mark.parametrize("name", CASES)
def test_score_drop_in_float32(name):
    check(name, np.float32)


@pytest.mark.parametrize("name", CASES)
def test_score_drop_in_float64(name, x64):
    check(name, np.float64)


@pytest.mark.parametrize("name", CASES)
def test_score_drop_follows_reversal_and_scale(name):
    d = CASES[name].make()
    assert d.reversed().reversed().score_drop == d.score_drop
    if d.score_drop is not None and d.is_smooth:
        np.testing.assert_allclose(d.normalized().score_drop(RHO), d.score_drop(RHO) / d.curvature, rtol=1e-6)
    if d.reversed().score_drop is None:
        assert d.dual_at_zero == np.inf


def test_slope_of_le_cam_far_from_one():
    """f' of the triangular divergence by jax: 1 - tanh^2 has no digits at r = e^-30."""
    x = np.float32(-30.0)
    exact = -3.0 * np.exp(np.float64(x))
    assert float(jax.grad(dv.le_cam().phi)(x)) == pytest.approx(exact, rel=1e-6)
