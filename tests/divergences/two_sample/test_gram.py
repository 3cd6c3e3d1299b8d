"""Kernels, distances, Gram helpers and the median bandwidth against float64 numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.divergences import two_sample as ts
from jaxdiv.divergences.two_sample.pairs import map_rows, squared_distances, strided
from tests.divergences.two_sample.reference import KERNELS, distances, samples

P, Q = samples(0, 11, 7, 5)


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_values(name, x64):
    kernel, reference = KERNELS[name]
    np.testing.assert_allclose(ts.gram_matrix(P, Q, kernel=kernel), reference(P, Q), rtol=1e-11)
    np.testing.assert_allclose(ts.gram_matrix(P, kernel=kernel), reference(P, P), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", KERNELS)
def test_kernel_values_in_float32(name):
    kernel, reference = KERNELS[name]
    p, q = P.astype(np.float32), Q.astype(np.float32)
    gram = ts.gram_matrix(p, q, kernel=kernel)
    assert gram.dtype == jnp.float32
    np.testing.assert_allclose(gram, reference(p.astype(float), q.astype(float)), rtol=5e-6, atol=2e-6)


@pytest.mark.parametrize("d", [1, 2, 31, 33, 70])
@pytest.mark.parametrize("method", ["direct", "expansion"])
def test_squared_distances(d, method):
    x, y = (a.astype(np.float32) for a in samples(d, 6, 9, d))
    expected = distances(x.astype(float), y.astype(float)) ** 2
    atol = 0 if method == "direct" else 1e-6 * np.max(x**2 + 1) * d
    np.testing.assert_allclose(squared_distances(x, y, method), expected, rtol=2e-6, atol=atol)


def test_direct_distances_keep_close_pairs_far_from_the_origin():
    rng = np.random.default_rng(0)
    x = (1000.0 + rng.normal(size=(20, 8))).astype(np.float32)
    y = (x + 1e-2 * rng.normal(size=x.shape)).astype(np.float32)
    expected = distances(x.astype(float), y.astype(float)) ** 2
    np.testing.assert_allclose(squared_distances(x, y, "direct"), expected, rtol=1e-6)
    assert np.array_equal(np.diag(squared_distances(x, x, "direct")), np.zeros(20))
    assert np.max(np.abs(squared_distances(x, y, "expansion") / expected - 1)) > 1e-2


@pytest.mark.parametrize("method", ["direct", "expansion"])
def test_derivatives_of_distances(method, x64):
    plain = jax.jit(lambda x, y: jnp.sum(jnp.sin(jnp.sum((x[:, None] - y) ** 2, axis=-1))))
    ours = jax.jit(lambda x, y: jnp.sum(jnp.sin(squared_distances(x, y, method))))
    x, y = jnp.asarray(P[:3, :2]), jnp.asarray(Q[:4, :2])
    for argument in (0, 1):
        np.testing.assert_allclose(jax.grad(ours, argument)(x, y), jax.grad(plain, argument)(x, y), rtol=1e-10)
        np.testing.assert_allclose(
            jax.hessian(ours, argument)(x, y), jax.hessian(plain, argument)(x, y), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("method", ["direct", "expansion"])
@pytest.mark.parametrize("argument", [0, 1])
def test_derivatives_far_from_the_origin(method, argument):
    """float32 errors are those of the differences: without centring they are a thousand times as large here."""
    rng = np.random.default_rng(1)
    points = [1000.0 + rng.normal(size=(n, 5)) for n in (30, 40)]
    points = [np.float64(np.float32(x)) for x in points]
    difference = points[0][:, None] - points[1]
    pull = difference / np.sqrt(1.0 + np.square(difference).sum(-1))[..., None]
    expected = pull.sum(1) if argument == 0 else -pull.sum(0)
    # The weights come from the distances, which an expansion blurs here: they are what "direct" says for both.
    weights = 0.5 / np.sqrt(1.0 + np.square(difference).sum(-1))
    _, pullback = jax.vjp(lambda x, y: squared_distances(x, y, method), *(jnp.asarray(x, jnp.float32) for x in points))
    got = pullback(jnp.asarray(weights, jnp.float32))[argument]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_infinite_points_spoil_their_own_derivatives_alone():
    x, y = jnp.array([[0.0], [1.0]]), jnp.array([[2.0], [jnp.inf]])
    tangent = jax.jvp(lambda x: squared_distances(x, y), (x,), (jnp.ones_like(x),))[1]
    np.testing.assert_array_equal(tangent[:, 0], [-4.0, -2.0])


@pytest.mark.parametrize("name", ["distance", "laplace"])
def test_the_root_of_a_squared_distance_that_rounds_below_0(name):
    """As a caller's own expansion may: it is that of 0, without a derivative, and NaN stays NaN."""
    profile = KERNELS[name][0].profile
    value, slope = jax.vmap(jax.value_and_grad(profile))(jnp.array([-1e-7, 0.0, jnp.nan]))
    np.testing.assert_array_equal(value[:2], profile(jnp.float32(0.0)))
    np.testing.assert_array_equal(slope[:2], 0.0)
    assert np.isnan(value[2])


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 10, 11, 50])
def test_map_rows_is_exact_for_ragged_blocks(chunk_size):
    x = jnp.arange(22.0).reshape(11, 2)

    def fn(rows, index):
        return {"sum": rows.sum(axis=1), "index": index}

    out = map_rows(fn, x, chunk_size=chunk_size)
    np.testing.assert_array_equal(out["sum"], x.sum(axis=1))
    np.testing.assert_array_equal(out["index"], np.arange(11))


@pytest.mark.parametrize("chunk_size", [1, 4, 100])
@pytest.mark.parametrize("name", ["gaussian", "laplace", "polynomial"])
def test_gram_product(name, chunk_size):
    kernel, reference = KERNELS[name]
    vectors = np.random.default_rng(1).normal(size=(7, 3))
    actual = ts.gram_product(vectors, x=P, y=Q, kernel=kernel, chunk_size=chunk_size)
    np.testing.assert_allclose(actual, reference(P, Q) @ vectors, rtol=1e-5, atol=1e-5)
    actual = ts.gram_product(np.ones((11, 1)), x=P, kernel=kernel, chunk_size=chunk_size)
    np.testing.assert_allclose(actual[:, 0], reference(P, P).sum(axis=1), rtol=1e-5)


def test_center_gram(x64):
    gram = np.random.default_rng(0).normal(size=(2, 5, 5))
    h = np.eye(5) - 1 / 5
    np.testing.assert_allclose(ts.center_gram(gram), h @ gram @ h, atol=1e-14)


def test_hsic_of_linear_kernels_is_the_squared_cross_covariance(x64):
    x, y = np.random.default_rng(0).normal(size=(2, 30, 3))
    kernel = ts.linear_kernel()
    hsic = jnp.sum(ts.center_gram(ts.gram_matrix(x, kernel=kernel)) * ts.gram_matrix(y, kernel=kernel)) / 30**2
    cross = (x - x.mean(0)).T @ (y - y.mean(0)) / 30
    np.testing.assert_allclose(hsic, np.sum(cross**2), rtol=1e-12)


def test_median_bandwidth():
    pooled = np.concatenate([P, Q])
    expected = np.median(distances(pooled, pooled)[np.triu_indices(18, 1)])
    np.testing.assert_allclose(ts.median_bandwidth(P, Q), expected, rtol=1e-6)
    np.testing.assert_allclose(ts.median_bandwidth(pooled), expected, rtol=1e-6)
    some = pooled[[0, 3, 6, 9, 12]]  # 18 // 5 = 3
    expected = np.median(distances(some, some)[np.triu_indices(5, 1)])
    np.testing.assert_allclose(ts.median_bandwidth(P, Q, max_samples=5), expected, rtol=1e-6)


def test_median_bandwidth_of_duplicates():
    assert float(ts.median_bandwidth(np.zeros((5, 2)))) == 1.0
    x = np.zeros((10, 1))
    x[0] = 3.0
    assert float(ts.median_bandwidth(x)) == 3.0
    assert np.array_equal(jax.grad(lambda x: ts.median_bandwidth(x))(jnp.asarray(P)), np.zeros_like(P))


def test_strided_rows_are_spread():
    np.testing.assert_array_equal(strided(jnp.arange(10), 3), [0, 3, 6])
    np.testing.assert_array_equal(strided(jnp.arange(3), 5), [0, 1, 2])


def test_a_kernel_is_a_pytree_whose_bandwidth_may_be_traced():
    def total(bandwidth):
        return jnp.sum(ts.gram_matrix(P, Q, kernel=ts.gaussian_kernel(bandwidth)))

    slope = (total(1.001) - total(0.999)) / 0.002
    np.testing.assert_allclose(jax.jit(jax.grad(total))(jnp.float32(1.0)), slope, rtol=1e-2)
    through = jax.jit(lambda kernel: ts.gram_matrix(P, Q, kernel=kernel))
    np.testing.assert_allclose(through(ts.laplace_kernel(2.0)), np.exp(-distances(P, Q) / 2), rtol=1e-5)
