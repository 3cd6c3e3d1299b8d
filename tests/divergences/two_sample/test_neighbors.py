"""Nearest neighbours against scipy's tree; KL and Renyi against brute force and Gaussians in closed form."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial

from jaxdiv.divergences import two_sample as ts
from tests.divergences.two_sample.reference import central_differences, distances, samples

P, Q = samples(0, 30, 23, 3)
knn_kl = jax.jit(ts.knn_kl, static_argnames=("num_neighbors", "chunk_size"))
knn_renyi = jax.jit(ts.knn_renyi, static_argnums=0, static_argnames=("num_neighbors", "chunk_size"))


@pytest.mark.parametrize("chunk_size", [1, 7, 100])
@pytest.mark.parametrize("k", [1, 4])
def test_nearest_neighbors(k, chunk_size, x64):
    expected = scipy.spatial.cKDTree(Q).query(P, list(range(1, k + 1)))[0]
    actual = ts.nearest_neighbors(P, Q, num_neighbors=k, chunk_size=chunk_size)
    np.testing.assert_allclose(actual, expected, rtol=1e-13)
    expected = scipy.spatial.cKDTree(P).query(P, list(range(2, k + 2)))[0]
    actual = ts.nearest_neighbors(P, num_neighbors=k, chunk_size=chunk_size)
    np.testing.assert_allclose(actual, expected, rtol=1e-13)


def test_all_neighbors_and_ties():
    grid = np.array([[0.0], [1.0], [1.0], [2.0], [4.0]])
    expected = np.sort(distances(grid, grid), axis=1)
    np.testing.assert_array_equal(ts.nearest_neighbors(grid, grid, num_neighbors=5), expected)
    np.testing.assert_array_equal(ts.nearest_neighbors(grid, num_neighbors=4), expected[:, 1:])


@pytest.mark.slow
def test_close_pairs_far_from_the_origin_in_float32():
    rng = np.random.default_rng(0)
    x = (300.0 + rng.normal(size=(40, 16))).astype(np.float32)
    y = np.concatenate([x + 1e-3 * rng.normal(size=x.shape).astype(np.float32), x[:3]])
    expected = np.sort(distances(x.astype(float), y.astype(float)), axis=1)[:, :3]
    actual = np.asarray(ts.nearest_neighbors(x, y, num_neighbors=3, chunk_size=16))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert (actual[:3, 0] == 0.0).all()


def brute(p, q, k, order):
    rho = np.sort(distances(p, p), axis=1)[:, k]
    nu = np.sort(distances(p, q), axis=1)[:, k - 1]
    n, m, d = len(p), len(q), p.shape[1]
    if order == 1:
        return d * np.mean(np.log(nu / rho)) + math.log(m / (n - 1))
    factor = math.gamma(k) ** 2 / (math.gamma(k - order + 1) * math.gamma(k + order - 1))
    return math.log(factor * np.mean(((n - 1) * rho**d / (m * nu**d)) ** (1 - order))) / (order - 1)


@pytest.mark.parametrize("order", [0.2, 0.5, 0.99, 1, 1.01, 2.0, 3.5])
def test_estimates_by_brute_force(order, x64):
    for k in (3, 5):
        expected = brute(P, Q, k, order)
        arguments = {"p_samples": P, "q_samples": Q, "num_neighbors": k, "chunk_size": 8}
        np.testing.assert_allclose(knn_renyi(order, **arguments).value, expected, rtol=1e-10)
        if order == 1:
            np.testing.assert_allclose(knn_kl(**arguments).value, expected, rtol=1e-12)


def test_renyi_is_continuous_at_order_one_and_survives_far_samples():
    both = {"p_samples": P, "q_samples": Q}
    kl = float(knn_kl(**both).value)
    for order in (1 - 1e-6, 1 + 1e-6, 1 - 1e-9, 1.0):
        assert float(knn_renyi(order, **both).value) == pytest.approx(kl, rel=1e-4)
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(2, 30, 60))
    q = 30 * q + 100
    for order in (0.5, 2.0):
        assert float(knn_renyi(order, p_samples=p, q_samples=q).value) == pytest.approx(brute(p, q, 5, order), rel=1e-4)


@pytest.mark.parametrize("order", [0.5, 1.0, 1.5])
def test_gaussians_in_closed_form(order):
    """N(0, 1) and N(1/2, 1) in two dimensions: order / 2 times the squared distance of the means."""

    @jax.jit
    @jax.vmap
    def estimate(key):
        p, q = jax.random.normal(key, (2, 600, 2))
        return knn_renyi(order, p_samples=p, q_samples=q + 0.5, num_neighbors=4).value

    values = np.asarray(estimate(jax.random.split(jax.random.key(0), 24)))
    bias = 0.06 if order > 1 else 0.02  # of 600 points, larger where the mean is of a heavy tail
    assert abs(values.mean() - order / 2 * 0.5) < bias and values.std() < 0.1


def test_the_gamma_factor_is_the_mean_it_undoes():
    """For u, v ~ Gamma(k): E (u / v)^(1-a) = 1 / B, by quadrature."""
    k, a = 3, 1.6
    x = np.linspace(1e-9, 80, 400001)
    density = x ** (k - 1) * np.exp(-x) / math.gamma(k)
    product = np.trapezoid(density * x ** (1 - a), x) * np.trapezoid(density * x ** (a - 1), x)
    assert product == pytest.approx(math.gamma(k - a + 1) * math.gamma(k + a - 1) / math.gamma(k) ** 2, rel=1e-5)


def test_duplicates_are_left_out_and_counted():
    p = np.concatenate([P, P[:4]])  # 8 points have their first neighbour at distance 0
    result = knn_kl(p_samples=p, q_samples=Q, num_neighbors=1)
    assert int(result.num_skipped) == 8
    rho, nu = (np.sort(distances(p, other), axis=1)[:, i] for other, i in ((p, 1), (Q, 0)))
    kept = rho > 0
    expected = 3 * np.mean(np.log(nu[kept] / rho[kept])) + math.log(23 / 33)
    np.testing.assert_allclose(result.value, expected, rtol=1e-5)
    assert int(knn_renyi(0.5, p_samples=p, q_samples=Q, num_neighbors=2).num_skipped) == 0
    gradient = jax.grad(lambda p: knn_kl(p_samples=p, q_samples=Q, num_neighbors=1).value)(jnp.asarray(p))
    assert np.isfinite(gradient).all()
    same = knn_kl(p_samples=np.zeros((5, 2)), q_samples=np.zeros((4, 2)), num_neighbors=2)
    assert np.isnan(same.value) and int(same.num_skipped) == 5
    copied = knn_renyi(2.0, p_samples=P, q_samples=P, num_neighbors=2)
    assert int(copied.num_skipped) == 0
    assert int(knn_kl(p_samples=P, q_samples=P, num_neighbors=1).num_skipped) == 30


@pytest.mark.parametrize("order", [1.0, 0.6, 2.0])
def test_gradients_by_finite_differences(order, x64):
    p, q = samples(4, 7, 6, 2)
    fn = jax.jit(lambda p, q: knn_renyi(order, p_samples=p, q_samples=q, num_neighbors=2, chunk_size=3).value)
    grad_p, grad_q = jax.jit(jax.grad(fn, (0, 1)))(p, q)
    np.testing.assert_allclose(grad_p, central_differences(lambda x: fn(x, q), p), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(grad_q, central_differences(lambda x: fn(p, x), q), rtol=1e-5, atol=1e-8)


def test_at_ties_one_neighbour_alone_has_the_derivative(x64):
    """The second neighbour of 0 is -1 or 1: at fixed neighbours the other one does not move the estimate."""
    p = jnp.array([[0.0], [7.0], [9.0], [10.0]])
    gradient = jax.grad(lambda q: knn_kl(p_samples=p, q_samples=q, num_neighbors=2).value)
    slopes = gradient(jnp.array([[1.0], [-1.0], [8.0], [9.5]]))[:2, 0]
    np.testing.assert_allclose(np.sort(np.abs(slopes)), [0.0, 0.25])


def test_rotation_scaling_and_chunks_change_nothing():
    fn = functools.partial(knn_kl, num_neighbors=3)
    value = float(fn(p_samples=P, q_samples=Q).value)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert float(fn(p_samples=7 * P @ rotation, q_samples=7 * Q @ rotation).value) == pytest.approx(value, rel=1e-4)
    for chunk_size in (1, 11):
        assert float(fn(p_samples=P, q_samples=Q, chunk_size=chunk_size).value) == pytest.approx(value, rel=1e-6)


def test_many_points_under_jit():
    """Selection must not depend on how often a compiler computes a distance: the fused passes once disagreed."""
    p, q = (x.astype(np.float32) for x in samples(6, 700, 500, 2))
    nearest = jax.jit(ts.nearest_neighbors, static_argnames="num_neighbors")
    for reference in (p, q):
        expected = np.sort(distances(p.astype(float), reference.astype(float)), axis=1)[:, :6]
        np.testing.assert_allclose(nearest(p, reference, num_neighbors=6), expected, rtol=1e-6)
