"""The differentiable Frechet distance against the float64 host version, closed forms and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from jaxdiv.divergences import two_sample as ts
from jaxdiv.metrics import frechet_distance_from_features
from tests.divergences.two_sample.reference import central_differences, samples

SHAPES = [(50, 40, 4), (30, 30, 1), (7, 40, 10), (5, 6, 20), (12, 12, 12), (3, 2, 2)]


distance = jax.jit(lambda p, q: ts.frechet_distance(p_samples=p, q_samples=q))  # op by op it is compiled in many pieces
distance_from_moments = jax.jit(
    lambda p_mean, p_cov, q_mean, q_cov: ts.frechet_distance_from_moments(
        p_mean=p_mean, p_covariance=p_cov, q_mean=q_mean, q_covariance=q_cov
    )
)
value_and_gradient = jax.jit(jax.value_and_grad(distance))


def moments(x):
    return x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False))


@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_against_the_host_version(n, m, d, x64):
    p, q = samples(n, n, m, d)
    expected = frechet_distance_from_features(p, q)
    np.testing.assert_allclose(distance(p, q), expected, rtol=1e-11)
    np.testing.assert_allclose(distance_from_moments(*moments(p), *moments(q)), expected, rtol=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), SHAPES)
def test_float32(n, m, d):
    p, q = (x.astype(np.float32) for x in samples(n, n, m, d))
    expected = frechet_distance_from_features(p, q)
    np.testing.assert_allclose(distance(p, q), expected, rtol=3e-6)


def test_float32_keeps_narrow_directions():
    """Standard deviations from 1 to 1e-5: from samples the distance keeps its digits."""
    std = 10.0 ** -np.arange(6)
    p, q = (np.random.default_rng(s).normal(size=(200, 6)) * std for s in (0, 1))
    expected = frechet_distance_from_features(p.astype(np.float32), q.astype(np.float32))
    actual = distance(p.astype(np.float32), q.astype(np.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_equal_sets_give_zero_and_a_zero_gradient():
    for n, d in ((50, 8), (6, 20)):
        p, _ = samples(0, n, n, d)
        p = p.astype(np.float32)
        value, gradient = value_and_gradient(p, p)
        assert 0.0 <= float(value) < 1e-9 * d
        assert np.max(np.abs(gradient)) < 1e-5
        assert 0.0 <= float(distance_from_moments(*moments(p), *moments(p))) < 1e-8 * d


def test_it_is_never_negative():
    rng = np.random.default_rng(0)
    p = jnp.asarray(rng.normal(size=(200, 12, 5)), jnp.float32)
    q = p + 1e-6 * jnp.asarray(rng.normal(size=p.shape), jnp.float32)
    values = jax.jit(jax.vmap(distance))(p, q)
    assert (np.asarray(values) >= 0).all() and (np.asarray(values) < 1e-10).all()


@pytest.mark.parametrize(("n", "m", "d"), [(6, 5, 2), (4, 5, 3), (9, 7, 1)])
def test_gradients_in_samples(n, m, d, x64):
    p, q = samples(1, n, m, d)
    grad_p, grad_q = jax.jit(jax.grad(distance, (0, 1)))(p, q)
    np.testing.assert_allclose(grad_p, central_differences(lambda x: distance(x, q), p), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(grad_q, central_differences(lambda x: distance(p, x), q), rtol=1e-6, atol=1e-8)


def test_gradients_in_moments(x64):
    p, q = samples(2, 20, 25, 3)
    arguments = [*moments(p), *moments(q)]
    gradients = jax.jit(jax.grad(distance_from_moments, (0, 1, 2, 3)))(*arguments)
    plain = distance_from_moments
    for i in range(4):
        numeric = central_differences(lambda x, i=i: plain(*arguments[:i], x, *arguments[i + 1 :]), arguments[i])
        np.testing.assert_allclose(gradients[i], numeric, rtol=1e-6, atol=1e-8)


def test_the_gradient_in_a_covariance_is_one_less_the_transport_map(x64):
    (_, p), (_, q) = (moments(x) for x in samples(3, 30, 30, 4))
    root = np.real(scipy.linalg.sqrtm(p))
    inverse = np.linalg.inv(root)
    transport = inverse @ np.real(scipy.linalg.sqrtm(root @ q @ root)) @ inverse
    zero = np.zeros(4)
    gradient = jax.jit(jax.grad(distance_from_moments, 1))(zero, p, zero, q)
    np.testing.assert_allclose(gradient, np.eye(4) - transport, atol=1e-9)


def test_singular_sets_have_finite_gradients():
    p, q = (x.astype(np.float32) for x in samples(4, 4, 5, 9))
    gradient = value_and_gradient(p, q)[1]
    assert np.isfinite(gradient).all() and np.max(np.abs(gradient)) > 0.01
    constant = np.ones((4, 3), np.float32)
    gradient = value_and_gradient(constant + 1.0, constant)[1]
    np.testing.assert_allclose(gradient, np.full((4, 3), 0.5), rtol=1e-5)


def test_a_descent_brings_the_moments_together():
    p, q = (jnp.asarray(x, jnp.float32) for x in samples(5, 40, 40, 3))
    step = jax.jit(lambda x: x - 15.0 * jax.grad(lambda x: ts.frechet_distance(p_samples=x, q_samples=q))(x))
    for _ in range(100):
        p = step(p)
    assert float(ts.frechet_distance(p_samples=p, q_samples=q)) < 1e-6
