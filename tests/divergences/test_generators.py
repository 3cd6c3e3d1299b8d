"""Every field of every member against mpmath (60 digits, straight from the definitions), in float32 and float64.

The bound: 8 units of rounding for |rho| <= 1 (float32: 9.6e-7, float64: 1.8e-15), and beyond it 8 + c |rho| units,
where c = max(1, the largest power of r in the formula). The second part is the condition number of e^{c rho}: rounding
c * rho alone to the dtype changes the exponential by up to c |rho| / 2 units.
"""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxdiv import divergences
from tests.divergences.reference import (
    CASES,
    RHO,
    SMOOTH,
    WITH_CONJUGATE,
    exact,
    relative_error,
    reverse,
)

POWERS = {"alpha_-3": 4.0, "alpha_2.5": 2.5, "pearson_chi2": 2.0, "neyman_chi2": 2.0}


def assert_accurate(case: str, x: np.ndarray, got, expected: list, slack: float | np.ndarray = 0.0) -> None:
    got = np.asarray(got)
    assert got.dtype == x.dtype and got.shape == x.shape
    units = 8.0 + np.where(np.abs(x) > 1.0, POWERS.get(case, 1.0) * np.abs(x), 0.0) + slack
    errors = relative_error(got, expected) / np.finfo(x.dtype).eps
    worst = int(np.argmax(np.where(np.isnan(errors), np.inf, errors - units)))
    assert errors[worst] <= units[worst], f"rho={x[worst]}: {got[worst]}, {errors[worst]:.1f} units of rounding"


def check_fields(case: str, dtype: type) -> None:
    make, f, slope, curve = CASES[case]
    d, x = make(), RHO.astype(dtype)
    r = [mpmath.exp(v) for v in exact(x)]
    low = x[x <= 0]
    r_low = [mpmath.exp(v) for v in exact(low)]
    assert_accurate(case, low, d.phi(low), [f(v) for v in r_low])
    assert_accurate(case, low, d.phi_dual(low), [reverse(f, slope, curve)[0](v) for v in r_low])
    assert_accurate(case, x, d.value(x), [f(v) for v in r])
    assert_accurate(case, x, d.link(x), [slope(v) for v in r])
    assert_accurate(case, x, d.weight(x), [v * v * curve(v) for v in r])
    assert_accurate(case, x, d.score(x), [f(v) - v * slope(v) for v in r])


@pytest.mark.parametrize("case", SMOOTH)
def test_reference_slopes_are_derivatives_of_the_definition(case):
    _, f, slope, curve = CASES[case]
    for rho in (-5.3, -0.7, 0.3, 4.1):
        r = mpmath.exp(rho)
        assert abs(mpmath.diff(f, r) / slope(r) - 1) < mpmath.mpf(10) ** -20
        assert abs(mpmath.diff(f, r, 2) / curve(r) - 1) < mpmath.mpf(10) ** -15


@pytest.mark.parametrize("case", CASES)
def test_fields_in_float32(case):
    check_fields(case, np.float32)


@pytest.mark.parametrize("case", CASES)
def test_fields_in_float64(case, x64):
    check_fields(case, np.float64)


def solve_link(case: str, t, rho):
    """(f*(t), argmax r) in mpmath: Newton's method for f'(e^rho) = t from a log-ratio near the answer."""
    _, f, slope, curve = CASES[case]
    for _ in range(60):
        r = mpmath.exp(rho)
        step = (slope(r) - t) / (r * curve(r))
        rho -= step if abs(step) < 1 else mpmath.sign(step)
        if abs(step) < mpmath.mpf(10) ** -45:
            break
    r = mpmath.exp(rho)
    return r * t - f(r), r


def check_conjugate(case: str, dtype: type) -> None:
    d, x = CASES[case].make(), RHO[::2].astype(dtype)
    t = np.asarray(d.link(x))
    inside = np.isfinite(t) & (t > d.link_at_zero) & (t < d.dual_at_zero)
    x, t = x[inside], t[inside]
    assert len(t) >= 12
    solved = [solve_link(case, *pair) for pair in zip(exact(t), exact(x), strict=True)]
    # d log f* / d log t = t r / f*: what rounding t itself costs.
    condition = np.array([float(abs(r * v / value)) for (value, r), v in zip(solved, exact(t), strict=True)])
    assert_accurate(case, x, d.conjugate(t), [value for value, _ in solved], slack=8.0 * condition)


@pytest.mark.parametrize("case", [c for c in WITH_CONJUGATE if c != "total_variation"])
def test_conjugate_in_float32(case):
    check_conjugate(case, np.float32)


@pytest.mark.parametrize("case", [c for c in WITH_CONJUGATE if c != "total_variation"])
def test_conjugate_in_float64(case, x64):
    check_conjugate(case, np.float64)


def test_total_variation_conjugate():
    t = jnp.array([-3.0, -0.5, -0.2, 0.0, 0.4, 0.5, 0.51])
    expected = np.array([-0.5, -0.5, -0.2, 0.0, 0.4, 0.5, np.inf], np.float32)
    np.testing.assert_array_equal(divergences.total_variation().conjugate(t), expected)


@pytest.mark.parametrize("case", CASES)
def test_limits_at_both_ends(case):
    """At -inf and +inf each field is its limit, and NaN goes through."""
    d = CASES[case].make()
    ends = jnp.array([-jnp.inf, jnp.inf])

    def same(got, *expected):
        np.testing.assert_allclose(got, np.array(expected, np.float32), rtol=1e-6)

    same(d.phi(ends[:1]), d.at_zero)
    same(d.phi_dual(ends[:1]), d.dual_at_zero)
    same(d.value(ends[:1]), d.at_zero)
    same(d.link(ends), d.link_at_zero, d.dual_at_zero)
    same(d.score(ends), d.at_zero, d.score_at_infinity)
    assert not np.isnan(d.weight(ends)).any()
    for field in (d.value, d.link, d.weight, d.score, d.phi, d.phi_dual):
        assert np.isnan(field(jnp.nan))


# Powers so close to 0 and 1 reach their limits beyond every number that mpmath can raise.
@pytest.mark.parametrize("case", [c for c in CASES if c not in ("alpha_1-1e-9", "alpha_1e-12")])
def test_stated_constants(case):
    """f(0), lim f(r)/r, f'(0), f''(1) of the record against the definition, in 60 digits."""
    make, f, slope, curve = CASES[case]
    d = make()

    def at_the_ends(exponent):
        small, large = mpmath.mpf(10) ** -exponent, mpmath.mpf(10) ** exponent
        return [f(small), f(large) / large, slope(small), f(large) - large * slope(large)]

    with mpmath.workdps(4200):
        near, far = at_the_ends(400), at_the_ends(4000)
    stated = [d.at_zero, d.dual_at_zero, d.link_at_zero, d.score_at_infinity]
    for constant, here, beyond in zip(stated, near, far, strict=True):
        if np.isinf(constant):  # a logarithm grows tenfold from 10^400 to 10^4000, a bounded limit does not move
            assert abs(beyond) > 5 * abs(here) and mpmath.sign(beyond) == np.sign(constant)
        else:
            assert abs(constant - beyond) <= 4e-15 * abs(beyond)
    if d.is_smooth:
        assert abs(d.curvature / curve(mpmath.mpf(1)) - 1) < 1e-14


@pytest.mark.parametrize("case", SMOOTH)
def test_first_derivatives_by_autodiff(case, x64):
    """d value = r f', d link = h / r, d score = -h, to 1e-12 of the larger of derivative and function."""
    make, _, slope, curve = CASES[case]
    d, x = make(), RHO
    r = [mpmath.exp(v) for v in exact(x)]
    for field, expected in [
        (d.value, [v * slope(v) for v in r]),
        (d.link, [v * curve(v) for v in r]),
        (d.score, [-v * v * curve(v) for v in r]),
    ]:
        value, got = jax.jvp(field, (x,), (np.ones_like(x),))
        scale = np.maximum(np.abs(value), np.abs(np.array(expected, float)))
        error = [float(abs(mpmath.mpf(g) - e)) for g, e in zip(np.asarray(got).tolist(), expected, strict=True)]
        assert (error <= 1e-12 * scale).all()


def twice(field):
    def first(x):
        return jax.jvp(field, (x,), (jnp.ones_like(x),))[1]

    return lambda x: (field(x), first(x), jax.jvp(first, (x,), (jnp.ones_like(x),))[1])


@pytest.mark.parametrize("case", SMOOTH)
def test_weight_has_two_derivatives(case, x64):
    """h, dh/drho and d2h/drho2 against mpmath to 1e-12 of the largest of the three."""
    make, _, _, curve = CASES[case]
    x = np.concatenate([RHO[::4], [0.0]])
    got = np.array(twice(make().weight)(jnp.asarray(x)))

    def weight(rho):
        return mpmath.exp(2 * rho) * curve(mpmath.exp(rho))

    for i, v in enumerate(exact(x)):
        expected = [mpmath.diff(weight, v, order) for order in range(3)]
        scale = max(abs(e) for e in expected)
        assert max(abs(mpmath.mpf(float(g)) - e) for g, e in zip(got[:, i], expected, strict=True)) <= 1e-12 * scale


@pytest.mark.parametrize("case", CASES)
def test_no_nan_in_two_derivatives_in_float32(case):
    d = CASES[case].make()
    x = jnp.asarray(np.concatenate([RHO, [0.0]]), jnp.float32)
    for field in (d.weight, d.link, d.score):
        assert not np.isnan(np.array(twice(field)(x))).any()
    assert not np.isnan(np.array(jax.jvp(d.value, (x,), (jnp.ones_like(x),)))).any()


@pytest.mark.parametrize("case", [c for c in WITH_CONJUGATE if c != "total_variation"])
def test_conjugate_slope_is_the_ratio(case, x64):
    """d f*(t) / dt at t = f'(r) is r: Legendre's duality, by autodiff."""
    d = CASES[case].make()
    rho = jnp.linspace(-4.0, 4.0, 17)
    t = d.link(rho)
    _, slope = jax.jvp(d.conjugate, (t,), (jnp.ones_like(t),))
    np.testing.assert_allclose(slope, jnp.exp(rho), rtol=1e-6 if case == "jensen_shannon_1-2e-27" else 1e-9)


@pytest.mark.parametrize(
    "value, match",
    [
        (np.nan, "alpha: a is nan"),
        (np.inf, "alpha: a is inf"),
        (1e5, "alpha: a is 100000.0"),
        ("0.5", "alpha: a is '0.5'"),
        (None, "expected a real Python number"),
    ],
)
def test_alpha_refuses(value, match):
    with pytest.raises(ValueError, match=match):
        divergences.alpha(value)


@pytest.mark.parametrize("member", [divergences.jensen_shannon, divergences.skew_kl])
@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, np.nan, "half"])
def test_mixtures_refuse(member, value):
    with pytest.raises(ValueError, match=f"{member.__name__}: pi is"):
        member(value)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.int32])
def test_low_precision_computes_and_returns_float32(dtype):
    d = divergences.jensen_shannon(0.3)
    x = jnp.array([-2, -1, 0], dtype)
    for field in (d.phi, d.phi_dual, d.value, d.link, d.weight, d.score, d.conjugate):
        out = field(x)
        assert out.dtype == jnp.float32
        np.testing.assert_array_equal(out, field(x.astype(jnp.float32)))
