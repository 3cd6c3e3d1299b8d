"""Derivatives of the values by finite differences in float64: envelope, unrolled, second order, blocks and memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxdiv.transport import (
    entropic_cost,
    monge_gap,
    plan,
    point_cost,
    regularized_cost,
    sinkhorn,
    sinkhorn_divergence,
    sqeuclidean,
    transport_cost,
)
from tests.transport.problems import clouds, differences, squares, weights

LOOSE = {"rtol": 1e-6, "atol": 1e-9}


def value_of(value, cost, a, b, epsilon, **settings):
    """A value in unconstrained weights, so that differences stay among probability vectors."""
    log_a, log_b = jax.nn.log_softmax(a), jax.nn.log_softmax(b)
    return value(sinkhorn(cost, log_a, log_b, epsilon=epsilon, **settings), cost)


@pytest.mark.parametrize("value", [regularized_cost, entropic_cost])
@pytest.mark.parametrize("unroll", [False, True])
def test_gradients_in_cost_weights_and_epsilon(x64, value, unroll):
    cost = squares(*clouds(4, 5))
    a, b = weights(4, seed=1, dtype=np.float64), weights(5, seed=2, dtype=np.float64)
    fn = functools.partial(value_of, value, num_iters=400, unroll=unroll)
    found = jax.jit(jax.grad(fn, argnums=(0, 1, 2, 3)))(cost, a, b, 0.6)
    plain = jax.jit(fn)
    points = (cost, a, b, np.array(0.6))
    for i, gradient in enumerate(found):
        others = lambda v, i=i: plain(*points[:i], v, *points[i + 1 :])  # noqa: E731
        np.testing.assert_allclose(gradient, differences(others, points[i]), **LOOSE)


def test_the_gradient_in_the_cost_is_the_plan_with_or_without_tolerance():
    cost = sqeuclidean(*clouds(6, 5, batch=(3,)))
    for settings in ({"num_iters": 200}, {"num_iters": 500, "tol": 1e-6}):
        solve = functools.partial(sinkhorn, epsilon=1.0, **settings)
        for value in (regularized_cost, entropic_cost, transport_cost):
            gradient = jax.grad(lambda c: jnp.sum(value(solve(c), c)))(cost)  # noqa: B023
            np.testing.assert_allclose(gradient, plan(solve(cost), cost), rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_unrolled_gradients_are_those_of_the_iterations(x64):
    """Far from convergence, where the envelope's gradient is another."""
    cost = squares(*clouds(4, 5))

    def value(cost, unroll, which):
        result = sinkhorn(cost, epsilon=0.4, num_iters=3, unroll=unroll)
        return which(result, cost, unroll=unroll) if which is transport_cost else which(result, cost)

    for which in (transport_cost, regularized_cost):
        expected = differences(jax.jit(lambda c: value(c, False, which)), cost)  # noqa: B023
        np.testing.assert_allclose(jax.grad(value)(jnp.asarray(cost), True, which), expected, **LOOSE)
        assert np.abs(jax.grad(value)(jnp.asarray(cost), False, which) - expected).max() > 1e-3


def test_converged_unrolled_and_envelope_agree_and_forward_mode_too(x64):
    cost, direction = jnp.asarray(squares(*clouds(5, 5))), np.random.default_rng(0).normal(size=(5, 5))

    def value(cost, unroll):
        return regularized_cost(sinkhorn(cost, epsilon=1.0, num_iters=300, unroll=unroll), cost)

    envelope, unrolled = (jax.grad(value)(cost, unroll) for unroll in (False, True))
    np.testing.assert_allclose(envelope, unrolled, rtol=1e-9, atol=1e-13)
    _, slope = jax.jvp(lambda c: value(c, False), (cost,), (direction,))
    np.testing.assert_allclose(slope, np.sum(envelope * direction), rtol=1e-12)


def test_second_derivatives_need_unrolling(x64):
    cost = squares(*clouds(3, 3))

    def gradient(cost, unroll):
        return jax.grad(lambda c: regularized_cost(sinkhorn(c, epsilon=1.0, num_iters=100, unroll=unroll), c))(cost)

    row = lambda c: jax.jit(gradient, static_argnums=1)(c, False)[0, 1]  # noqa: E731
    expected = differences(row, cost)
    exact = jax.jacrev(lambda c: gradient(c, True)[0, 1])(jnp.asarray(cost))
    np.testing.assert_allclose(exact, expected, rtol=1e-5, atol=1e-9)
    wrong = jax.jacrev(lambda c: gradient(c, False)[0, 1])(jnp.asarray(cost))
    assert np.abs(wrong - expected).max() > 1e-2


def test_points_of_weight_zero_leave_finite_gradients():
    x, y = clouds(6, 7)
    log_a = np.array([np.log(0.5), -np.inf, np.log(0.2), np.log(0.3), -np.inf, -np.inf], np.float32)

    @functools.partial(jax.jit, static_argnames="unroll")
    @functools.partial(jax.grad, argnums=(0, 1, 2))
    def gradients(x, y, log_a, unroll=False):
        cost = sqeuclidean(x, y)
        result = sinkhorn(cost, log_a, epsilon=0.5, num_iters=50, unroll=unroll)
        return regularized_cost(result, cost) + entropic_cost(result, cost)

    kept = np.isfinite(log_a)
    for unroll in (False, True):
        full = gradients(x, y, log_a, unroll=unroll)
        small = gradients(x[kept], y, log_a[kept], unroll=unroll)
        for value in full:
            assert np.isfinite(value).all()
        np.testing.assert_array_equal(full[0][~kept], 0.0)
        np.testing.assert_array_equal(full[2][~kept], 0.0)
        np.testing.assert_allclose(full[0][kept], small[0], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(full[1], small[1], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("unroll", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 3])
def test_divergence_and_gap_by_finite_differences(x64, unroll, chunk_size):
    x, y = clouds(4, 4, dtype=np.float64)
    settings = {"epsilon": 0.7, "num_iters": 300, "unroll": unroll, "chunk_size": chunk_size}
    for fn in (
        lambda x, y: sinkhorn_divergence(p_samples=x, q_samples=y, **settings),
        lambda x, y: monge_gap(x, y, **settings),
    ):
        found = jax.jit(jax.grad(fn, argnums=(0, 1)))(x, y)
        plain = jax.jit(fn)
        np.testing.assert_allclose(found[0], differences(lambda v: plain(v, y), x), **LOOSE)  # noqa: B023
        np.testing.assert_allclose(found[1], differences(lambda v: plain(x, v), y), **LOOSE)  # noqa: B023


@pytest.mark.slow
def test_weights_of_the_divergence_by_finite_differences(x64):
    x, y = clouds(4, 5, dtype=np.float64)
    b = weights(5, seed=2, dtype=np.float64)

    @jax.jit
    def fn(a):
        return sinkhorn_divergence(
            p_samples=x, q_samples=y, epsilon=0.7, p_log_weights=jax.nn.log_softmax(a), q_log_weights=b, num_iters=300
        )

    a = weights(4, seed=1, dtype=np.float64)
    np.testing.assert_allclose(jax.grad(fn)(a), differences(fn, a), **LOOSE)


def test_memory_of_blocks_does_not_grow_with_the_matrix():
    """Value and gradient of 4096 by 4096 points in blocks of 64: the stored cost alone is 64 MiB."""

    def loss(x, y, chunk_size):
        return sinkhorn_divergence(p_samples=x, q_samples=y, epsilon=1.0, num_iters=5, chunk_size=chunk_size)

    cloud = jax.ShapeDtypeStruct((4096, 8), jnp.float32)

    def temporaries(chunk_size):
        fn = jax.value_and_grad(functools.partial(loss, chunk_size=chunk_size), argnums=(0, 1))
        return jax.jit(fn).lower(cloud, cloud).compile().memory_analysis().temp_size_in_bytes

    block = 4 * 64 * 4096
    assert temporaries(64) < 12 * block + 2**20
    assert temporaries(None) > 64 * 2**20


@pytest.mark.slow
def test_memory_of_unrolling_keeps_no_matrices():
    cost = jax.ShapeDtypeStruct((512, 512), jnp.float32)

    def temporaries(num_iters):
        def loss(c):
            return regularized_cost(sinkhorn(c, epsilon=1.0, num_iters=num_iters, unroll=True), c)

        return jax.jit(jax.grad(loss)).lower(cost).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(100) - temporaries(10) < 512 * 512 * 4


def test_online_gradients_are_those_of_the_matrix():
    x, y = clouds(11, 9, batch=(2,))

    def loss(x, y, chunk_size):
        cost = sqeuclidean(x, y) if chunk_size is None else point_cost(x, y, chunk_size=chunk_size)
        result = sinkhorn(cost, epsilon=0.5, num_iters=30)
        return jnp.sum(regularized_cost(result, cost) + transport_cost(result, cost))

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
    for one, other in zip(gradients(x, y, 4), gradients(x, y, None), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("settings", [{}, {"tol": 1e-3}, {"unroll": True}, {"chunk_size": 2}])
def test_under_shard_map_over_the_batch(settings):
    x, y = clouds(5, 5, batch=(2,))
    mesh = Mesh(np.array(jax.devices()[:1]), ("batch",))
    rows = PartitionSpec("batch")

    def values(x, y):
        divergence = sinkhorn_divergence(p_samples=x, q_samples=y, epsilon=0.5, num_iters=20, **settings)
        return divergence + monge_gap(x, y, epsilon=0.5, num_iters=20, **settings)

    sharded = jax.shard_map(values, mesh=mesh, in_specs=(rows, rows), out_specs=rows)

    def value_and_gradient(fn):
        def total(x):
            found = fn(x, y)
            return jnp.sum(found), found

        (_, found), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x)
        return found, gradient

    for one, other in zip(value_and_gradient(sharded), value_and_gradient(values), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
