"""Entropies from neighbours against scipy's trees, closed forms, and the constraints on the weights."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.special import digamma, gamma, gammaln

from jaxdiv.information import kozachenko_leonenko
from jaxdiv.information.kozachenko import neighbor_weights


@pytest.mark.parametrize("case", [(4, 8), (8, 20), (12, 24), (9, 40)], ids=str)
def test_weights_satisfy_their_constraints(case):
    d, k = case
    weights = neighbor_weights(k, d)
    j = np.arange(1, k + 1)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    for order in range(1, d // 4 + 1):
        moments = gamma(j + 2 * order / d) / gamma(j)
        assert abs((weights * moments).sum()) < 1e-9 * moments.max()
    assert set(np.flatnonzero(weights) + 1) <= {i * k // d for i in range(1, d + 1)}
    # Of smallest norm: orthogonal to every direction that keeps the constraints.
    support = np.flatnonzero(weights)
    rows = np.stack([np.exp(gammaln(j + 2 * order / d) - gammaln(j))[support] for order in range(d // 4 + 1)])
    rows /= rows.max(axis=1, keepdims=True)
    coefficients = np.linalg.lstsq(rows.T, weights[support], rcond=None)[0]
    np.testing.assert_allclose(rows.T @ coefficients, weights[support], atol=1e-9)


@pytest.mark.parametrize("norm", ["chebyshev", "euclidean"])
@pytest.mark.parametrize("case", [(50, 1, 1), (400, 2, 5), (300, 5, 8)], ids=str)
def test_equals_a_tree(case, norm, x64):
    count, d, k = case
    x = np.random.default_rng(d).normal(size=(count, d))
    distances = cKDTree(x).query(x, k + 1, p=np.inf if norm == "chebyshev" else 2)[0][:, 1:]
    volume = d * math.log(2) if norm == "chebyshev" else math.log(math.pi ** (d / 2) / math.gamma(d / 2 + 1))
    terms = digamma(count) - digamma(np.arange(1, k + 1)) + volume + d * np.log(distances).mean(0)
    assert float(kozachenko_leonenko(x, k=k, norm=norm)) == pytest.approx(terms[-1], abs=1e-10)
    if k >= d:
        weighted = kozachenko_leonenko(x, k=k, norm=norm, weighted=True)
        assert float(weighted) == pytest.approx((neighbor_weights(k, d) * terms).sum(), abs=1e-9)


def test_closed_forms():
    """Standard normal ln(2 pi e)/2 per dimension, the uniform 0; eight draws of 1000."""
    keys = jax.random.split(jax.random.key(0), 8)
    for norm in ("chebyshev", "euclidean"):
        fn = jax.jit(jax.vmap(lambda x, norm=norm: kozachenko_leonenko(x, k=5, norm=norm).value))
        normal = fn(jax.vmap(lambda key: jax.random.normal(key, (1000, 2)))(keys))
        assert abs(normal.mean() - math.log(2 * math.pi * math.e)) < 4 * normal.std() / 8**0.5 + 0.02
    line = jax.jit(jax.vmap(lambda x: kozachenko_leonenko(x).value))
    uniform = line(jax.vmap(lambda key: jax.random.uniform(key, (1000,)))(keys))
    assert abs(uniform.mean()) < 4 * uniform.std() / 8**0.5 + 0.01


def test_weights_take_bias_away():
    """Four dimensions, four draws of N = 1500: the mean error of -0.066 is about halved."""
    truth = 2 * math.log(2 * math.pi * math.e)
    x = np.stack([np.random.default_rng(seed).normal(size=(1500, 4)) for seed in range(4)]).astype(np.float32)
    plain, weighted = (
        jax.jit(jax.vmap(partial(kozachenko_leonenko, k=8, norm="euclidean", weighted=flag)))(x).value.mean() - truth
        for flag in (False, True)
    )
    assert plain < -0.05
    assert abs(weighted) < -0.7 * plain


def test_laws():
    x = jax.random.normal(jax.random.key(0), (300, 3))
    fn = jax.jit(partial(kozachenko_leonenko, k=4))
    base = fn(x)
    np.testing.assert_allclose(fn(x[::-1]).value, base.value, rtol=1e-5)
    np.testing.assert_allclose(fn(x + 0.5).value, base.value, rtol=1e-5)
    np.testing.assert_allclose(fn(8.0 * x).value - base.value, 3 * math.log(8.0), rtol=1e-5)
    np.testing.assert_allclose(jnp.mean(base.info["local"]), base.value, rtol=1e-5)
    assert base.kind == "plug-in" and base.info["num_ties"] == 0 and np.isinf(base.ceiling)


@pytest.mark.parametrize("weighted", [False, True])
def test_atoms_and_constants_are_minus_infinity(weighted):
    x = jax.random.normal(jax.random.key(0), (60, 2))
    fn = jax.jit(partial(kozachenko_leonenko, k=4, weighted=weighted))
    atom = x.at[:5].set(1.0)
    assert float(fn(atom)) == -np.inf and fn(atom).info["num_ties"] == 5
    assert float(fn(x.at[:, 1].set(0.5))) == -np.inf
    assert np.isfinite(float(fn(x)))
    assert np.isfinite(float(fn(x.at[: 2 if weighted else 4].set(1.0))))  # too few for the first used


def test_what_is_not_finite_gives_nan():
    x = jax.random.normal(jax.random.key(0), (60, 2))
    fn = jax.jit(kozachenko_leonenko)
    for bad in (np.nan, np.inf):
        assert np.isnan(float(fn(x.at[3, 1].set(bad))))
        assert np.isnan(float(fn(x.at[:, 0].set(1.0).at[3, 1].set(bad))))


def test_malformed_calls():
    x = jnp.zeros((5, 3))
    for arguments, match in [
        (dict(x=x), "kozachenko_leonenko: x has 5 rows; expected more than k = 5"),
        (dict(x=x, k=0), "kozachenko_leonenko: k is 0"),
        (dict(x=x, k=2, weighted=True), "kozachenko_leonenko: k is 2; expected at least the 3 dimensions"),
        (dict(x=x, k=2, weighted=1), "kozachenko_leonenko: weighted is 1"),
        (dict(x=x, k=2, norm="l2"), "kozachenko_leonenko: norm is 'l2'"),
        (dict(x=jnp.zeros((5, 3), int), k=2), "kozachenko_leonenko: x has dtype int32"),
        (dict(x=jnp.zeros((5, 3, 1)), k=2), "kozachenko_leonenko: x has shape"),
        (dict(x="x", k=2), "kozachenko_leonenko: x is 'x'"),
    ]:
        with pytest.raises(ValueError, match=match):
            kozachenko_leonenko(**arguments)
