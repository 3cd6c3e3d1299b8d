"""Compress, whiten, estimate: against numpy's decompositions, brute-force entropies and Gaussians of known MI."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma

from jaxdiv.information import ksg, latent_mutual_information, principal_components

estimate = jax.jit(
    latent_mutual_information, static_argnames=("encode_x", "encode_y", "estimator", "k", "weighted", "tile")
)


def white(z):
    """Standardised by the largest entry, then the left singular vectors, times sqrt(N)."""
    z = z - z.mean(axis=0)
    left = np.linalg.svd(z / np.abs(z).max(axis=0), full_matrices=False)[0]
    return left * len(z) ** 0.5


def entropy(z, k, weights):
    """sum_j w_j [psi(N) - psi(j) + d log 2 + d <log e_j>], by all pairwise distances."""
    count, d = z.shape
    distances = np.sort(np.abs(z[:, None] - z[None]).max(axis=-1), axis=1)[:, 1 : k + 1]
    terms = digamma(count) - digamma(np.arange(1, k + 1)) + d * np.log(2 * distances).mean(axis=0)
    return np.sum(weights * terms)


def observed(rho, count, d, seed=0):
    """Two pairs of correlated scalars, each side behind a random isometry into d dimensions: -log(1 - rho^2)."""
    rng = np.random.default_rng(seed)
    u, noise = rng.normal(size=(2, count, 2))
    v = rho * u + (1 - rho**2) ** 0.5 * noise
    out = [np.linalg.qr(rng.normal(size=(d, 2)))[0].T for _ in range(2)]
    return u, v, u @ out[0] + 5.0, v @ out[1] - 2.0


@pytest.mark.parametrize("shape", [(50, 7), (9, 30)])
def test_principal_components_are_numpys(x64, shape):
    """From either scatter matrix: the smaller one is taken."""
    rng = np.random.default_rng(0)
    x = 10.0 + rng.normal(size=shape) * np.geomspace(1.0, 0.1, shape[1])
    pca = jax.jit(functools.partial(principal_components, num_components=4))(x)
    centered = x - x.mean(axis=0)
    _, scales, axes = np.linalg.svd(centered, full_matrices=False)
    np.testing.assert_allclose(pca.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(pca.variances, scales[:4] ** 2 / (len(x) - 1), rtol=1e-10)
    np.testing.assert_allclose(pca.directions @ pca.directions.T, axes[:4].T @ axes[:4], atol=1e-9)
    np.testing.assert_allclose(np.abs(pca(x)), np.abs(centered @ axes[:4].T), atol=1e-9)
    np.testing.assert_allclose(pca.explained, np.sum(scales[:4] ** 2) / np.sum(scales**2), rtol=1e-12)
    single = jax.jit(functools.partial(principal_components, num_components=4))(jnp.asarray(x, jnp.bfloat16))
    assert single.directions.dtype == jnp.float32
    np.testing.assert_allclose(single.variances, pca.variances, rtol=0.05)


def test_principal_components_without_variance(x64):
    pca = principal_components(np.full((6, 9), 0.1), num_components=3)
    np.testing.assert_array_equal(pca.variances, 0.0)
    np.testing.assert_allclose(pca.directions.T @ pca.directions, np.eye(3), atol=1e-12)
    assert float(pca.explained) == 1.0


@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_principal_components_of_what_is_no_number_have_no_variance_to_tell(shape):
    pca = principal_components(jnp.ones(shape).at[1, 1].set(jnp.nan), num_components=2)
    assert np.isnan(pca.variances).all() and np.isnan(pca.explained)


@pytest.mark.parametrize(
    "d, k, weighted", [(1, 3, False), pytest.param(2, 4, True, marks=pytest.mark.slow), (3, 6, True)]
)
def test_entropies_by_brute_force(x64, d, k, weighted):
    """The weights: for joint dimensions below 4 none but their sum is bound; from 4 one condition more."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, d)) * 3.0 + 1.0
    y = x @ rng.normal(size=(d, d)) + rng.normal(size=(60, d))
    found = estimate(x, y, estimator="entropies", k=k, weighted=weighted)

    def weights(d):
        if not weighted:
            return np.eye(k)[-1]
        support = sorted({j * k // d for j in range(1, d + 1)})
        orders = range(1, d // 4 + 1)
        rows = [[1.0] * d] + [[math.gamma(j + 2 * o / d) / math.gamma(j) for j in support] for o in orders]
        out = np.zeros(k)
        out[np.array(support) - 1] = np.linalg.pinv(np.array(rows))[:, 0]
        return out

    a, b = white(x), white(y)
    wanted = entropy(a, k, weights(d)) + entropy(b, k, weights(d)) - entropy(np.hstack([a, b]), k, weights(2 * d))
    assert abs(float(found) - wanted) < 1e-9
    plain = estimate(x, y, k=k)
    assert abs(float(plain) - float(jax.jit(ksg, static_argnames="k")(a, b, k=k))) < 1e-9
    assert plain.kind == found.kind == "plug-in"


def test_gaussians_behind_isometries(x64):
    """Two components hold all there is; one loses half. The encoder that inverts the isometry needs none."""
    u, v, x, y = observed(0.9, 1000, 20)
    truth = -math.log(1 - 0.9**2)
    both = estimate(x, y, encode_x=2, encode_y=2)
    assert abs(float(both) - truth) < 0.15
    np.testing.assert_allclose([both.info["explained_x"], both.info["explained_y"]], 1.0, rtol=1e-12)
    assert abs(float(estimate(x, y, encode_x=2, encode_y=2, estimator="entropies", k=3)) - truth) < 0.25
    one = estimate(x, y, encode_x=1, encode_y=2)
    assert abs(float(one) - truth / 2) < 0.1
    assert 0.45 < float(one.info["explained_x"]) < 0.6 and float(one) < float(both)
    single = estimate(jnp.float32(x), jnp.float32(y), encode_x=2, encode_y=2)
    np.testing.assert_allclose(single.value, both.value, atol=0.02)


def test_functions_as_encoders(x64):
    u, v, x, y = observed(0.9, 300, 12)
    images = x.reshape(300, 2, 3, 2)

    def decode(images):
        return images.reshape(300, 12)[:, :3] * 2.0

    found = estimate(images, v, encode_x=decode)
    wanted = estimate(x[:, :3], v)
    np.testing.assert_allclose(found.value, wanted.value, rtol=1e-9)
    assert np.isnan(found.info["explained_x"]) and int(found.info["rank_x"]) == 2  # the isometry has rank 2
    np.testing.assert_allclose(estimate(images, v).value, estimate(x, v).value, rtol=1e-9)  # flattened


@pytest.mark.parametrize("estimator", ["ksg", "entropies"])
def test_dimensions_that_are_not_filled(x64, estimator):
    """Constant and repeated columns change nothing, and a constant side says 0."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 1))
    y = x + rng.normal(size=(300, 1))
    run = functools.partial(estimate, estimator=estimator)
    wanted = float(run(x, y))
    wide = np.concatenate([x, np.full_like(x, 0.1), x * 3.0], axis=1)
    found = run(wide, y)
    assert abs(float(found) - wanted) < 1e-9
    assert int(found.info["rank_x"]) == 1
    constant = np.full((300, 1), 0.1)
    for pair in ((x, constant), (constant, x), (constant, constant)):
        assert abs(float(run(*pair))) < 1e-12
    assert abs(float(run(x, rng.normal(size=(300, 1))))) < 0.15


def test_duplicates_dtype_nan_vmap():
    rng = np.random.default_rng(3)
    x = jnp.asarray(np.repeat(rng.normal(size=(20, 1)), 3, axis=0), jnp.float32)
    assert abs(float(estimate(x, x, k=2)) - (digamma(60) - digamma(3))) < 1e-5
    assert np.isnan(estimate(x, x, k=2, estimator="entropies").value)
    x, y = rng.normal(size=(2, 60, 6)).astype(jnp.bfloat16)
    spoiled = np.stack([x] * 3)
    spoiled[1:, 3, 1] = np.nan, np.inf
    for estimator in ("ksg", "entropies"):
        run = functools.partial(latent_mutual_information, encode_x=2, encode_y=1, estimator=estimator)
        found = jax.jit(jax.vmap(lambda x, run=run: run(x, y)))(spoiled)
        assert found.value.dtype == jnp.float32 and found.info["local"].shape == (3, 60)
        np.testing.assert_array_equal(np.isnan(found.value), [False, True, True])
    # What an encoder swallows is still seen.
    assert np.isnan(estimate(spoiled[1], y, encode_x=jnp.nan_to_num, encode_y=1).value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encode_x": 3}, r"latent_mutual_information: encode_x is 3; expected a number in \[1, 2\]"),
        ({"encode_x": 0}, "latent_mutual_information: encode_x is 0"),
        ({"encode_y": "pca"}, "latent_mutual_information: encode_y is 'pca'; expected an integer"),
        (
            {"encode_x": lambda x: x[:5]},
            r"y has 8 rows; expected the 5 rows of encode_x\(x\)",
        ),
        ({"encode_x": lambda x: x[None]}, r"latent_mutual_information: encode_x\(x\) has shape \(1, 8, 2\)"),
        ({"estimator": "mine"}, "latent_mutual_information: estimator is 'mine'"),
        ({"weighted": 1}, "latent_mutual_information: weighted is 1; expected True or False"),
        ({"weighted": True, "estimator": "entropies"}, "latent_mutual_information: k is 2; expected a number in"),
        ({"k": 8}, "latent_mutual_information: x has 8 rows; expected more than k = 8"),
        ({"x": jnp.float32(1.0)}, r"latent_mutual_information: x has shape \(\)"),
        ({"y": jnp.ones((0, 2))}, r"latent_mutual_information: y has shape \(0, 2\)"),
    ],
    ids=["components", "none", "type", "rows", "rank", "estimator", "flag", "weights", "k", "scalar", "empty"],
)
def test_bad_arguments(change, message):
    arguments = {"x": jnp.eye(8)[:, :2], "y": jnp.eye(8)[:, 2:4], "k": 2} | change
    with pytest.raises(ValueError, match=message):
        latent_mutual_information(**arguments)


def test_bad_components():
    with pytest.raises(ValueError, match=r"principal_components: num_components is 3; expected a number in \[1, 2\]"):
        principal_components(jnp.ones((3, 4)), num_components=3)
    with pytest.raises(ValueError, match="principal_components: x has dtype int32"):
        principal_components(jnp.ones((3, 4), int), num_components=1)
