"""Kernel Stein discrepancy: automatic differentiation of the kernel, quadrature, brute force, and the test's level."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.divergences import two_sample as ts
from tests.divergences.two_sample.reference import KERNELS, SMOOTH, central_differences, samples

X, SCORE = samples(0, 9, 9, 3)


def stein_gram(kernel, x, score):
    """u(x_i, x_j) from derivatives of the scalar kernel function."""

    def k(a, b):
        return kernel.profile(jnp.sum(jnp.square(a - b)))

    def u(a, s_a, b, s_b):
        mixed = jax.jacfwd(jax.grad(k, 0), 1)(a, b)
        return s_a @ s_b * k(a, b) + s_a @ jax.grad(k, 1)(a, b) + s_b @ jax.grad(k, 0)(a, b) + jnp.trace(mixed)

    rows = jax.vmap(jax.vmap(u, (None, None, 0, 0)), (0, 0, None, None))
    return np.array(jax.jit(rows)(x, score, x, score))


@pytest.mark.parametrize("name", SMOOTH)
def test_by_derivatives_of_the_kernel(name, x64):
    kernel, _ = KERNELS[name]
    gram = stein_gram(kernel, X, SCORE)
    expected = {"biased": gram.mean(), "unbiased": (gram.sum() - np.trace(gram)) / (9 * 8)}
    for estimator, value in expected.items():
        for chunk_size in (2, 4, 100):
            for score in (SCORE, lambda x: SCORE):
                actual = ts.squared_ksd(
                    p_samples=X, q_score=score, kernel=kernel, estimator=estimator, chunk_size=chunk_size
                )
                np.testing.assert_allclose(actual, value, rtol=1e-10)


@pytest.mark.parametrize("name", SMOOTH)
def test_steins_identity_by_quadrature(name, x64):
    """E_q u(x, y) = 0 for every y, q the mixture of two normals; also E_p u by quadrature for another p."""
    kernel, _ = KERNELS[name]
    x = np.linspace(-12.0, 12.0, 601)

    def log_density(x):
        return jnp.logaddexp(-0.5 * (x - 2.0) ** 2, -0.5 * (x + 1.0) ** 2)

    score = jax.vmap(jax.grad(log_density))(jnp.asarray(x))
    density = np.exp(log_density(x))
    gram = stein_gram(kernel, x[:, None], score[:, None])
    against = np.trapezoid(density[:, None] * gram, x, axis=0)[200:400]
    assert np.max(np.abs(against)) < 1e-9 * np.max(np.abs(gram))


def test_default_kernel_and_float32():
    value = ts.squared_ksd(p_samples=X.astype(np.float32), q_score=jnp.negative)
    kernel = ts.inverse_multiquadric_kernel(float(ts.median_bandwidth(X)))
    x = X.astype(np.float64)
    with jax.enable_x64(True):
        gram = stein_gram(kernel, x, -x)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, (gram.sum() - np.trace(gram)) / 72, rtol=1e-5)
    assert np.isfinite(ts.squared_ksd(p_samples=X[:1], q_score=jnp.negative, estimator="biased"))


def test_it_is_unbiased_and_grows_with_the_shift():
    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def values(key, shift):
        x = shift + jax.random.normal(key, (12, 2))
        return ts.squared_ksd(p_samples=x, q_score=jnp.negative, kernel=ts.gaussian_kernel(1.0))

    keys = jax.random.split(jax.random.key(0), 1000)
    at_zero, shifted = (np.asarray(values(keys, shift)) for shift in (0.0, 0.5))
    assert abs(at_zero.mean()) < 4 * at_zero.std() / math.sqrt(1000)
    # For q = N(0, 1): E_p[f(x)(s_q - s_p)] makes the discrepancy shift^T E k(x, x') shift, x, x' ~ p.
    expected = 0.5 * (1 / 3)  # |shift|^2 (h^2 / (h^2 + 2))^(d/2)
    assert abs(shifted.mean() - expected) < 4 * shifted.std() / math.sqrt(1000)


def test_bootstrap_level_and_power():
    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def levels(key, shift):
        data, draw = jax.random.split(key)
        x = shift + jax.random.normal(data, (60, 2))
        return ts.stein_bootstrap_test(draw, p_samples=x, q_score=jnp.negative, num_bootstrap=99).p_value

    keys = jax.random.split(jax.random.key(0), 300)
    null = np.asarray(levels(keys, 0.0))
    assert 0.02 < np.mean(null <= 0.05) < 0.10 and 0.15 < np.mean(null <= 0.2) < 0.28
    assert np.mean(np.asarray(levels(keys, 0.7)) <= 0.05) > 0.95


def test_bootstrap_values_by_brute_force(x64):
    key, kernel = jax.random.key(4), ts.gaussian_kernel(1.3)
    result = ts.stein_bootstrap_test(key, p_samples=X, q_score=SCORE, kernel=kernel, num_bootstrap=10, chunk_size=4)
    gram = stein_gram(kernel, X, SCORE)
    np.fill_diagonal(gram, 0.0)
    signs = np.asarray(jax.random.rademacher(key, (9, 10), jnp.float64))
    np.testing.assert_allclose(result.statistic, gram.sum() / 72, rtol=1e-10)
    np.testing.assert_allclose(result.null, np.einsum("ib,ij,jb->b", signs, gram, signs) / 72, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("chunk_size", [2, 100])
def test_gradients_by_finite_differences(chunk_size, x64):
    x, score = samples(1, 5, 5, 2)
    kernel = ts.inverse_multiquadric_kernel(0.8)
    fn = jax.jit(lambda x, s: ts.squared_ksd(p_samples=x, q_score=s, kernel=kernel, chunk_size=chunk_size))
    grad_x, grad_s = jax.jit(jax.grad(fn, (0, 1)))(x, score)
    np.testing.assert_allclose(grad_x, central_differences(lambda a: fn(a, score), x), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(grad_s, central_differences(lambda a: fn(x, a), score), rtol=1e-6, atol=1e-9)
    through = jax.jit(lambda x: ts.squared_ksd(p_samples=x, q_score=lambda x: -(x**3), kernel=kernel))
    np.testing.assert_allclose(jax.jit(jax.grad(through))(x), central_differences(through, x), rtol=1e-6, atol=1e-9)
