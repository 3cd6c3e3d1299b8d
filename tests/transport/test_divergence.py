"""The Sinkhorn divergence: its laws, limits, POT's value, and that it is never negative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from jaxdiv.transport import (
    cosine,
    epsilon_schedule,
    l1,
    regularized_cost,
    sinkhorn,
    sinkhorn_divergence,
    sqeuclidean,
)
from tests.transport.problems import clouds, squares, weights


@functools.partial(jax.jit, static_argnames=("cost_fn", "num_iters", "tol", "chunk_size"))
def between(x, y, **settings):
    return sinkhorn_divergence(p_samples=x, q_samples=y, **{"epsilon": 0.5} | settings)


def test_value_is_that_of_pot(x64):
    """Three converged problems of POT; its own debiased function leaves the entropies out."""
    x, y = clouds(8, 11, dtype=np.float64)
    log_a, log_b = weights(8, seed=1, dtype=np.float64), weights(11, seed=2, dtype=np.float64)
    a, b = np.exp(log_a), np.exp(log_b)

    def value(x, y, a, b):
        cost = squares(x, y)
        plan = ot.sinkhorn(a, b, cost, 0.5, method="sinkhorn_log", numItermax=5000, stopThr=1e-13, warn=False)
        return (plan * cost).sum() + 0.5 * (plan * np.log(plan / np.outer(a, b))).sum()

    expected = value(x, y, a, b) - value(x, x, a, a) / 2 - value(y, y, b, b) / 2
    found = between(x, y, p_log_weights=log_a, q_log_weights=log_b, num_iters=3000)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_is_made_of_three_regularized_costs(x64):
    x, y = clouds(8, 6, dtype=np.float64)

    def value(x, y):
        cost = sqeuclidean(x, y)
        return regularized_cost(sinkhorn(cost, epsilon=0.5, num_iters=3000), cost)

    np.testing.assert_allclose(
        between(x, y, num_iters=3000), value(x, y) - (value(x, x) + value(y, y)) / 2, rtol=1e-10
    )  # fmt: skip


@pytest.mark.parametrize("cost_fn", [sqeuclidean, l1, cosine])
def test_never_negative_after_any_number_of_iterations(cost_fn):
    """Near and far samples, large and small epsilon; relative to the size of the three terms it is rounding."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 8, 2)).astype(np.float32)
    noise = (10.0 ** rng.uniform(-6, 0.5, size=(40, 1, 1))).astype(np.float32)
    y = x + noise * rng.normal(size=x.shape).astype(np.float32)
    log_a = weights(8, seed=1, batch=(40,))
    lowest = []
    for num_iters in (1, 2, 7, 60):
        values = jax.jit(
            jax.vmap(lambda e, n=num_iters: between(x, y, epsilon=e, cost_fn=cost_fn, num_iters=n, p_log_weights=log_a))
        )(jnp.array([0.01, 0.1, 1.0, 10.0, 100.0]))
        assert np.isfinite(values).all()
        lowest.append(float(jnp.min(values / (1.0 + jnp.array([0.01, 0.1, 1.0, 10.0, 100.0])[:, None]))))
    assert min(lowest) > -3e-6


@pytest.mark.parametrize("num_iters", [1, 3, 10])
def test_rises_with_the_iterations_from_above_zero(x64, num_iters):
    """The bound of the docstring, epsilon / 2 times a squared kernel norm, holds for the start's potentials."""
    x, y = clouds(8, 9, dtype=np.float64)
    found = between(x, y, num_iters=num_iters)
    eps, a, b = 0.5, np.full(8, 1 / 8), np.full(9, 1 / 9)

    def averaged(cost, weight):
        f = np.zeros(len(weight))
        for _ in range(num_iters):
            f = (f - eps * np.log((weight * np.exp((f - cost) / eps)).sum(axis=1))) / 2
        return weight * np.exp(f / eps)

    u, v = averaged(squares(x, x), a), averaged(squares(y, y), b)
    kernels = [np.exp(-squares(*pair) / eps) for pair in ((x, x), (x, y), (y, y))]
    norm = u @ kernels[0] @ u - 2 * u @ kernels[1] @ v + v @ kernels[2] @ v
    assert float(found) > eps / 2 * norm > 0


def test_zero_for_equal_samples_and_only_there():
    x, y = clouds(20, 20)
    for chunk_size in (None, 6):
        assert abs(float(between(x, x, chunk_size=chunk_size))) < 2e-6
        assert float(between(x, y, chunk_size=chunk_size)) > 0.1
    order = np.random.default_rng(0).permutation(20)
    assert abs(float(between(x, x[order]))) < 2e-6
    gradient = jax.grad(lambda v: between(v, x))(x)
    np.testing.assert_allclose(gradient, 0.0, atol=2e-5)


def test_symmetry_permutation_and_translation():
    x, y = clouds(9, 7)
    log_a = weights(9, seed=1)
    settings = {"num_iters": 300}
    value = float(between(x, y, p_log_weights=log_a, **settings))
    assert float(between(y, x, q_log_weights=log_a, **settings)) == pytest.approx(value, rel=1e-5)
    order = np.random.default_rng(0).permutation(9)
    assert float(between(x[order], y, p_log_weights=log_a[order], **settings)) == pytest.approx(value, rel=1e-5)
    shift = np.array([0.4, -1.0], np.float32)
    assert float(between(x + 7, y + 7, p_log_weights=log_a, **settings)) == pytest.approx(value, rel=1e-5)
    assert float(between(x, x + shift, **settings)) == pytest.approx(1.16, rel=1e-4)


def test_limits_in_epsilon(x64):
    x, y = clouds(10, 10, dtype=np.float64)
    exact = ot.emd2(np.full(10, 0.1), np.full(10, 0.1), squares(x, y))
    schedule = epsilon_schedule(10.0, 0.003, num_iters=4000)
    assert float(between(x, y, epsilon=schedule, num_iters=4000)) == pytest.approx(exact, rel=5e-3)
    for cost_fn in (sqeuclidean, l1):
        cross, of_x, of_y = (cost_fn(*pair).mean() for pair in ((x, y), (x, x), (y, y)))
        limit = cross - of_x / 2 - of_y / 2
        assert float(between(x, y, epsilon=1e6, cost_fn=cost_fn)) == pytest.approx(float(limit), rel=1e-3)


def test_batches_blocks_tolerance_and_dtypes_agree():
    x, y = clouds(9, 7, batch=(3,))
    plain = between(x, y, num_iters=200)
    assert plain.shape == (3,) and plain.dtype == jnp.float32
    mapped = jax.vmap(functools.partial(between, num_iters=200))(x, y)
    np.testing.assert_allclose(mapped, plain, rtol=1e-5)
    np.testing.assert_allclose(between(x, y, num_iters=200, chunk_size=4), plain, rtol=2e-5)
    np.testing.assert_allclose(between(x, y, num_iters=1000, tol=1e-5), plain, rtol=1e-4)
    low = between(jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16), num_iters=200)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, plain, rtol=0.05)


@pytest.mark.parametrize("pad", [50.0, -1e8])
def test_points_of_weight_zero_do_not_count(pad):
    """However far they lie: costs are between centred points."""
    x, y = clouds(6, 5)
    log_a = np.concatenate([weights(6, seed=1), np.full(2, -np.inf, np.float32)])
    padded = np.concatenate([x, np.full((2, 2), pad, np.float32)])
    found = between(padded, y, p_log_weights=log_a)
    np.testing.assert_allclose(found, between(x, y, p_log_weights=log_a[:6]), rtol=2e-6)
    np.testing.assert_allclose(between(y, padded, q_log_weights=log_a), found, rtol=1e-4)
    gradient = jax.grad(lambda v: between(v, y, p_log_weights=log_a))(padded)
    assert np.isfinite(gradient).all() and (np.asarray(gradient[6:]) == 0).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p_samples": np.zeros(3, np.float32)}, r"p_samples has shape \(3,\)"),
        ({"p_samples": None}, "p_samples "),
        ({"q_samples": np.zeros((4, 3), np.float32)}, r"q_samples has shape \(4, 3\)"),
        ({"q_samples": np.zeros((4, 2), np.int32)}, "q_samples has dtype int32"),
        ({"q_samples": [[0.0, None]]}, "q_samples "),
        ({"p_log_weights": np.zeros(4, np.float32)}, r"p_log_weights has shape \(4,\)"),
        ({"q_log_weights": np.zeros(3, np.float32)}, r"q_log_weights has shape \(3,\)"),
        ({"q_log_weights": "uniform"}, "q_log_weights "),
        ({"q_log_weights": np.full(4, 0.25)}, "q_log_weights has a total mass of 5.1361; expected logarithms"),
        ({"epsilon": -0.5}, "epsilon is -0.5"),
        ({"epsilon": float("nan")}, "epsilon is nan"),
        ({"num_iters": "ten"}, "num_iters is 'ten'"),
        ({"tol": float("nan")}, "tol is nan"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"cost_fn": None}, "cost_fn is None"),
        ({"cost_fn": lambda x, y: x}, "cost_fn returns shape"),
        ({"unroll": None}, "unroll is None"),
    ],
)
def test_a_bad_argument_is_named(settings, message):
    arguments = {"p_samples": np.zeros((3, 2), np.float32), "q_samples": np.zeros((4, 2), np.float32), "epsilon": 1.0}
    with pytest.raises(ValueError, match="^sinkhorn_divergence: " + message):
        sinkhorn_divergence(**arguments | settings)
