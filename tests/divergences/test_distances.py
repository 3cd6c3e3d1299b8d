"""Wasserstein-1 on a line and beta against mpmath, scipy, finite differences and limits."""

import functools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
from mpmath import mp

from jaxdiv.divergences import distances as ds
from tests.divergences.test_families import BAD, LOGITS, REGIMES, V, draw, errors, kl, power, softmax, softmax_exact

POSITIONS = np.round(np.random.default_rng(8).normal(size=V) * 3, 2).astype(np.float32)
DISTANCES = {
    "wasserstein": ds.ordered_wasserstein,
    "wasserstein_at": functools.partial(ds.ordered_wasserstein, positions=POSITIONS),
    **{f"beta_{b}": functools.partial(ds.beta_divergence, b) for b in (0.0, 1e-3, 0.5, 1.0, 4.0)},
}
SMOOTH = [name for name in DISTANCES if name.startswith("beta")]


def beta(p, q, b):
    if b == 0:
        return kl(p, q)
    b = mpmath.mpf(b)
    pairs = list(zip(p, q, strict=True))
    return sum(power(y, 1 + b) - (1 + 1 / b) * x * power(y, b) + power(x, 1 + b) / b for x, y in pairs)


def exact(name, p, q):
    if name.startswith("beta"):
        return beta(p, q, float(name.partition("_")[2]))
    points = range(V) if name == "wasserstein" else [mpmath.mpf(float(x)) for x in POSITIONS]
    rows = sorted(zip(points, p, q, strict=True))
    flow, total = mpmath.mpf(0), mpmath.mpf(0)
    for (here, x, y), (there, _, _) in zip(rows[:-1], rows[1:], strict=True):
        flow += x - y
        total += abs(flow) * (there - here)
    return total


@functools.cache
def compiled():
    def one(function):
        return jax.vmap(jax.value_and_grad(lambda a, b: function(p_logits=a, q_logits=b), (0, 1)))

    return jax.jit(lambda a, b: {name: one(function)(a, b) for name, function in DISTANCES.items()})


@pytest.mark.parametrize("regime", REGIMES)
def test_float32_values_against_mpmath_and_gradients_against_float64(regime):
    a, b = draw(regime)
    with mp.workdps(60):
        rows = [(softmax(x), softmax(y)) for x, y in zip(a, b, strict=True)]
        expected = {name: np.array([float(exact(name, p, q)) for p, q in rows]) for name in DISTANCES}
    low = jax.tree.map(np.asarray, compiled()(a, b))
    with jax.enable_x64(True):
        high = jax.tree.map(np.asarray, compiled()(a.astype(np.float64), b.astype(np.float64)))
    for name, (value, grads) in low.items():
        assert value.dtype == np.float32 and (value >= 0).all(), name
        assert errors(np.asarray(value, np.float64), expected[name]) < 3e-6, name
        for got, reference in zip(grads, high[name][1], strict=True):
            assert np.isfinite(got).all(), name
            size = np.max(np.abs(reference), axis=-1, keepdims=True)
            assert (np.abs(got - reference) <= 2e-5 * size + 1e-30).all(), name


@pytest.mark.parametrize("regime", ["moderate", "near", "sharp", "p masked", "q masked"])
def test_float64_gradients_by_differences_of_mpmath(x64, regime):
    a, b = draw(regime, np.float64)
    da, db = np.random.default_rng(2).normal(size=(2, V))
    with mp.workdps(60):
        step = mpmath.mpf(10) ** -15
        sides = [(softmax_exact(a[0], da, s * step), softmax_exact(b[0], db, s * step)) for s in (1, -1)]
        slopes = {n: [exact(n, p, q) for p, q in sides] for n in DISTANCES}
        slopes = {n: float((x - y) / (2 * step)) for n, (x, y) in slopes.items() if mpmath.isfinite(x)}
    results = compiled()(a, b)
    for name, slope in slopes.items():
        grad_p, grad_q = results[name][1]
        scale = float(np.max(np.abs(grad_p[0])) + np.max(np.abs(grad_q[0])))
        got = float(grad_p[0] @ da + grad_q[0] @ db)
        assert got == pytest.approx(slope, rel=1e-9, abs=1e-11 * scale + 1e-30), name


def test_hessians_of_beta_by_finite_differences(x64):
    a, b = (x[0, :12] for x in draw("moderate", np.float64))
    da, db = np.random.default_rng(4).normal(size=(2, 12))
    step = 1e-6

    def values(a, b):
        return jnp.stack([DISTANCES[name](p_logits=a, q_logits=b) for name in SMOOTH])

    run = jax.jit(lambda a, b: jax.jvp(jax.jacrev(values, (0, 1)), (a, b), (da, db)))
    got, plus, minus = run(a, b)[1], run(a + step * da, b + step * db)[0], run(a - step * da, b - step * db)[0]
    for x, y, z in zip(got, plus, minus, strict=True):
        for i, name in enumerate(SMOOTH):
            np.testing.assert_allclose(x[i], (y[i] - z[i]) / (2 * step), rtol=1e-5, atol=1e-8, err_msg=name)


def test_wasserstein_against_scipy(x64):
    a, b = draw("moderate", np.float64)
    p, q = (scipy.special.softmax(x, axis=-1) for x in (a, b))
    expected = [scipy.stats.wasserstein_distance(POSITIONS, POSITIONS, x, y) for x, y in zip(p, q, strict=True)]
    run = jax.jit(lambda a, b: ds.ordered_wasserstein(p_logits=a, q_logits=b, positions=POSITIONS))
    np.testing.assert_allclose(run(a, b), expected, rtol=1e-12)


@pytest.mark.slow
def test_wasserstein_gradient_for_positions(x64):
    a, b = (x[0] for x in draw("moderate", np.float64))
    way, step = np.random.default_rng(0).normal(size=V), 1e-7

    def value(t):
        return ds.ordered_wasserstein(p_logits=a, q_logits=b, positions=np.asarray(POSITIONS, float) + t * way)

    slope = float(value(step) - value(-step)) / (2 * step)
    assert float(jax.grad(value)(0.0)) == pytest.approx(slope, rel=1e-6)


def test_limits_of_beta(x64):
    a, b = draw("moderate", np.float64)
    both = {"p_logits": a, "q_logits": b}
    p, q = (np.asarray(jax.nn.softmax(x)) for x in (a, b))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-12)
    close(ds.beta_divergence(1, **both), np.sum((p - q) ** 2, axis=-1))
    close(ds.beta_divergence(1e-9, **both), ds.beta_divergence(0, **both), rtol=1e-7)


def test_kinks_have_gradient_zero_where_equal():
    a, _ = draw("moderate")
    for name, (value, grads) in compiled()(a, a).items():
        np.testing.assert_array_equal(value, 0.0, err_msg=name)
        for grad in grads:
            np.testing.assert_array_equal(grad, 0.0, err_msg=name)


def test_axis_where_dtypes_and_empty_rows():
    a, b = draw("moderate")
    mask = np.random.default_rng(0).random(a.shape) < 0.7
    none = np.full_like(a, -np.inf)
    for name, function in DISTANCES.items():
        masked = function(p_logits=np.where(mask, a, -np.inf), q_logits=np.where(mask, b, -np.inf))
        np.testing.assert_array_equal(function(p_logits=a, q_logits=b, where=mask), masked, err_msg=name)
        turned = function(p_logits=a.T, q_logits=b.T, where=mask.T, axis=0)
        np.testing.assert_allclose(turned, masked, rtol=1e-6)
        value = function(p_logits=jnp.asarray(a, jnp.float16), q_logits=jnp.asarray(b, jnp.float16))
        assert value.dtype == jnp.float32 and value.shape == (8,)
        assert (compiled()(none, none)[name][0] == 0).all(), name
        assert np.isnan(compiled()(none, a)[name][0]).all() and np.isnan(compiled()(a, none)[name][0]).all(), name
    one = jnp.zeros((2, 1))
    np.testing.assert_array_equal(ds.ordered_wasserstein(p_logits=one, q_logits=one), 0.0)


@pytest.mark.parametrize("name", DISTANCES)
def test_bad_logits_are_refused(name):
    function = ds.ordered_wasserstein if name == "wasserstein_at" else DISTANCES[name]
    for p, q, keywords, argument in BAD:
        with pytest.raises(ValueError, match=rf"^\w+: {argument}"):
            function(p_logits=p, q_logits=q, **keywords)


def test_bad_parameters_are_refused():
    for beta_ in (-0.1, 101.0, math.nan, math.inf, None, "1", True, [1.0], 1j):
        with pytest.raises(ValueError, match="beta_divergence: beta"):
            ds.beta_divergence(beta_, p_logits=LOGITS, q_logits=LOGITS)
    for positions in (np.zeros(2), np.zeros((2, 3)), np.arange(3), "abc", [0.0, None, 1.0], 1.0):
        with pytest.raises(ValueError, match="ordered_wasserstein: positions"):
            ds.ordered_wasserstein(p_logits=LOGITS, q_logits=LOGITS, positions=positions)
