"""The local nonuniformity correction against brute force and strongly dependent data of known information."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma

from jaxdiv.information import ksg, lnc, nonuniformity_threshold

estimate = jax.jit(lnc, static_argnames=("k", "tile"))
threshold_of_eight = jax.jit(functools.partial(nonuniformity_threshold, k=8, num_samples=20_000))


def log_ratio(x, y):
    """log volumes of the box along principal axes over that of the cubes, from offsets of the neighbours."""
    both = np.concatenate([x, y], axis=1)
    axes = np.linalg.svd(both)[2]
    cubes = x.shape[1] * np.log(np.abs(x).max()) + y.shape[1] * np.log(np.abs(y).max())
    return np.sum(np.log(np.abs(both @ axes.T).max(axis=0))) - cubes


def brute(x, y, k, threshold):
    """By the definition, one point at a time."""
    terms = []
    for i in range(len(x)):
        near_x, near_y = np.abs(x - x[i]).max(axis=1), np.abs(y - y[i]).max(axis=1)
        order = np.argsort(np.maximum(near_x, near_y), kind="stable")
        nearest = order[order != i][:k]
        inside = [np.sum(near <= near[nearest].max()) - 1 for near in (near_x, near_y)]
        term = digamma(k) - 1 / k + digamma(len(x)) - digamma(inside[0]) - digamma(inside[1])
        ratio = log_ratio(x[nearest] - x[i], y[nearest] - y[i])
        terms.append(term - ratio * (ratio < np.log(threshold)))
    return np.mean(terms)


@pytest.mark.parametrize(("d_x", "d_y", "k", "threshold"), [(1, 1, 5, 0.25), (2, 1, 6, 0.5)])
def test_brute_force(x64, d_x, d_y, k, threshold):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 80, d_x))
    y = x[..., :1] + np.array([1.0, 0.1, 0.001])[:, None, None] * rng.normal(size=(3, 80, d_y))
    found = jax.jit(jax.vmap(functools.partial(lnc, k=k, threshold=threshold)))(x, y)
    wanted = [brute(*pair, k, threshold) for pair in zip(x, y, strict=True)]
    np.testing.assert_allclose(found.value, wanted, rtol=0, atol=1e-10)
    assert found.kind == "plug-in"
    corrected = found.info["num_corrected"]
    assert corrected[0] < corrected[1] < corrected[2]


def strip(theta, count, seed=0):
    """x uniform on [0, 1] and y = x + theta u, u uniform on [0, 1]: h(y) - log theta = theta / 2 - log theta."""
    x, u = np.random.default_rng(seed).random((2, count))
    return x, x + theta * u, theta / 2 - math.log(theta)


def test_strong_dependence(x64):
    """`ksg` stays below its ceiling; the correction follows the truth over thousands of times the sample size."""
    cases = [strip(theta, 1000) for theta in (1e-1, 1e-2, 1e-4, 1e-6)]
    x, y, truth = (np.stack(part) for part in zip(*cases, strict=True))
    threshold = threshold_of_eight(jax.random.key(0))
    found = np.asarray(jax.jit(jax.vmap(functools.partial(lnc, k=8, threshold=threshold)))(x, y).value)
    plain = np.asarray(jax.jit(jax.vmap(functools.partial(ksg, k=8, form=2)))(x, y).value)
    assert np.all(plain < digamma(1000) - digamma(8))
    assert np.all(truth[2:] - plain[2:] > 3.0)
    np.testing.assert_allclose(found, truth, atol=0.45)
    assert abs(found[3] - found[2] - math.log(100)) < 0.05  # nothing saturates
    single = jax.jit(jax.vmap(functools.partial(lnc, k=8, threshold=threshold)))(jnp.float32(x), jnp.float32(y)).value
    np.testing.assert_allclose(single[:3], found[:3], atol=0.02)


def test_independent_data_are_left_as_they_are(x64):
    x, y = np.random.default_rng(1).random((2, 1000))
    threshold = threshold_of_eight(jax.random.key(1))
    found = estimate(x, y, k=8, threshold=threshold)
    assert abs(float(found)) < 0.1
    assert int(found.info["num_corrected"]) < 15  # 5 in 1000 expected
    plain = jax.jit(functools.partial(ksg, k=8, form=2))(x, y)
    assert abs(float(estimate(x, y, k=8, threshold=0.0)) - float(plain)) < 1e-13


@pytest.mark.parametrize(("k", "dims"), [(5, (1, 1)), (8, (2, 1))])
def test_threshold_is_the_quantile_under_uniformity(k, dims):
    """Other draws, from numpy, fall below it with the level's probability, within 4 standard errors of both sides."""
    threshold = float(nonuniformity_threshold(jax.random.key(2), k=k, dims=dims, level=0.05, num_samples=20_000))
    rng = np.random.default_rng(0)
    balls = rng.uniform(-1.0, 1.0, size=(4000, k, sum(dims)))
    below = np.mean([log_ratio(ball[:, : dims[0]], ball[:, dims[0] :]) < math.log(threshold) for ball in balls])
    assert abs(below - 0.05) < 4 * math.sqrt(0.05 * 0.95 * (1 / 4000 + 1 / 20_000))


def test_constants_and_duplicates(x64):
    x, y, _ = strip(0.01, 300)
    constant = np.ones(300)
    for pair in ((x, constant), (constant, x), (constant, constant)):
        found = estimate(*pair, k=8)
        assert float(found) == 0.0 and int(found.info["num_corrected"]) == 0
    wide = np.stack([constant, x], axis=1)  # a constant column beside another changes nothing
    np.testing.assert_allclose(estimate(wide, y, k=8).value, estimate(x, y, k=8).value, rtol=1e-10)
    coin = np.tile([0.0, 1.0], 150)  # nothing but atoms: no box has volume, and what is left is the plug-in
    assert abs(float(estimate(coin, coin, k=8)) - (digamma(300) - digamma(150))) < 1e-12
    assert float(estimate(x, x, k=8)) > 20.0  # infinite in truth


def test_dtype_nan_grad():
    x, y = jax.random.normal(jax.random.key(0), (2, 60), jnp.bfloat16)
    found = estimate(x, y)
    assert found.value.dtype == jnp.float32 and found.info["local"].shape == (60,)
    assert np.isnan(estimate(x.at[3].set(jnp.nan), y).value) and np.isnan(estimate(x, y.at[3].set(jnp.inf)).value)
    x = x.astype(jnp.float32)
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: lnc(x, y).value))(x), 0.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: lnc(x, x, k=1), "lnc: k is 1; expected a number in"),
        (lambda x: lnc(x, x, k=9), "lnc: x has 9 rows; expected more than k = 9"),
        (lambda x: lnc(x, x, threshold=1.5), "lnc: threshold is 1.5"),
        (lambda x: lnc(x, x[1:]), "lnc: y has 8 rows"),
        (lambda x: nonuniformity_threshold(0, k=5), "nonuniformity_threshold: key is 0; expected a typed key"),
        (lambda x: nonuniformity_threshold(jax.random.key(0), k=2, dims=(2, 1)), "nonuniformity_threshold: k is 2"),
        (
            lambda x: nonuniformity_threshold(jax.random.key(0), k=5, dims=(2,)),
            r"dims is \(2,\); expected two",
        ),
        (lambda x: nonuniformity_threshold(jax.random.key(0), k=5, dims=(2, 0)), "dims is 0"),
        (lambda x: nonuniformity_threshold(jax.random.key(0), k=5, level=1.0), "level is 1.0"),
        (lambda x: nonuniformity_threshold(jax.random.key(0), k=5, num_samples=0), "num_samples is 0"),
    ],
    ids=["flat box", "k", "threshold", "rows", "key", "k of d", "dims", "no dim", "level", "samples"],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.arange(9.0))
