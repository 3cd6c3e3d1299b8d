"""The pairwise bounds against quadrature, dense numpy and the closed form of a Gaussian channel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from jaxdiv.information import kolchinsky_tracey_bounds

bounds_of = jax.jit(kolchinsky_tracey_bounds, static_argnames="chunk_size")


def dense(means, variance, labels, chosen, factor, everyone=False):
    """-mean_i log mean_j exp(-|m_i - m_j|^2 / (factor variance)) over j in i's class, in loops."""
    terms = []
    for m, label in zip(means, labels, strict=True):
        near = means if everyone else means[labels == label]
        terms.append(-np.log(np.mean(np.exp(-np.sum((m - near) ** 2 / variance, axis=1) / factor))))
    return np.mean(terms)


def mixture_entropy(points, variance):
    def density(t):
        return np.mean(norm.pdf(t, points, variance**0.5))

    edges = points.min() - 10.0, points.max() + 10.0
    return quad(lambda t: -density(t) * np.log(density(t) + 1e-300), *edges, limit=400)[0]


def test_it_brackets_the_gaussian_channel():
    x = np.random.default_rng(0).normal(size=1500)
    lower, upper = bounds_of(x, variance=0.1, chunk_size=500)
    truth = 0.5 * np.log(11.0)
    assert lower.kind == "lower bound" and upper.kind == "upper bound"
    np.testing.assert_allclose([float(lower), float(upper)], [0.966, 1.633], atol=0.03)
    assert float(lower) < truth - 0.1 and float(upper) > truth + 0.1
    assert float(upper) < float(upper.ceiling) == np.float32(np.log(1500))
    assert 0.0 < float(lower.stderr) < 0.05


def test_both_informations_lie_between_for_a_known_mixture(x64):
    points, labels = np.array([-2.0, -1.5, 0.3, 0.9, 2.0, 2.1]), np.array([0, 0, 1, 1, 1, 0])
    for variance in (0.05, 0.5, 4.0):
        whole, noise = mixture_entropy(points, variance), 0.5 * np.log(2.0 * np.pi * np.e * variance)
        lower, upper = bounds_of(points, variance=variance)
        assert float(lower) < whole - noise < float(upper)
        given = sum(np.mean(labels == c) * mixture_entropy(points[labels == c], variance) for c in (0, 1))
        lower, upper = bounds_of(points, variance=variance, labels=labels)
        assert float(lower) < whole - given < float(upper)


@pytest.mark.parametrize("variance", [0.3, np.array([0.3, 0.5, 2.0])], ids=["scalar", "diagonal"])
def test_it_is_its_definition_whatever_the_chunks(x64, variance):
    rng = np.random.default_rng(1)
    means, labels = rng.normal(size=(23, 3)), rng.integers(0, 3, 23)
    whole = [dense(means, variance, labels, labels, factor, everyone=True) for factor in (8.0, 2.0)]
    inner = [dense(means, variance, labels, labels, factor) for factor in (8.0, 2.0)]
    pair = bounds_of(means, variance=variance, chunk_size=5)
    np.testing.assert_allclose([e.value for e in pair], whole, rtol=1e-12)
    pair = bounds_of(means, variance=variance, labels=labels, chunk_size=7)
    np.testing.assert_allclose([e.value for e in pair], [whole[0] - inner[1], whole[1] - inner[0]], rtol=1e-12)
    same = [e.info["same_bound"] for e in pair]
    np.testing.assert_allclose(same, [whole[0] - inner[0], whole[1] - inner[1]], rtol=1e-12)
    np.testing.assert_allclose([np.mean(e.info["local"]) for e in pair], [e.value for e in pair], rtol=1e-12)


def test_limits():
    """Far apart: log N and the labels' entropy. Constant, one class, independent labels, duplicates: what must be."""
    x = jnp.arange(12.0)[:, None] * jnp.ones(2)
    labels = jnp.array([0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2])
    entropy = -(0.5 * np.log(0.5) + 0.5 * np.log(0.25))

    def values(x, labels, variance):
        plain = kolchinsky_tracey_bounds(x, variance=variance)
        pair = kolchinsky_tracey_bounds(x, variance=variance, labels=labels)
        return jnp.stack([e.value for e in plain + pair] + [e.info["same_bound"] for e in pair])

    values = jax.jit(values)
    far = values(x, labels, 1e-4)
    np.testing.assert_allclose(far, [np.log(12.0)] * 2 + [entropy] * 4, rtol=1e-6)
    np.testing.assert_array_equal(values(jnp.full_like(x, 7.7), labels, 0.1), 0.0)
    one = values(x, jnp.zeros(12, int), 1.0)
    assert one[2] < 0.0 < one[3] and one[4] == one[5] == 0.0  # the truth, 0, lies between
    twice = jnp.concatenate([x[:6], x[:6]])
    free = values(twice, jnp.repeat(jnp.arange(2), 6), 1.0)  # labels say nothing about the point
    assert free[2] < 0.0 < free[3]
    np.testing.assert_allclose(free[4:], 0.0, atol=1e-6)
    np.testing.assert_allclose(free[1], bounds_of(x[:6], variance=1.0)[1].value, rtol=1e-6)
    for bad in (x.at[4, 0].set(jnp.nan), x.at[4, 0].set(jnp.inf)):
        assert np.all(np.isnan(values(bad, labels, 0.1)))


def test_gradients_reach_means_and_variance(x64):
    means = jnp.sin(3.0 * jnp.arange(14.0)).reshape(7, 2)
    labels = jnp.array([0, 1, 0, 1, 0, 1, 1])

    @jax.jit
    def value(means, variance):
        lower, upper = kolchinsky_tracey_bounds(means, variance=variance, labels=labels, chunk_size=3)
        return lower.value + 2.0 * upper.value

    by_means, by_variance = jax.jit(jax.grad(value, (0, 1)))(means, jnp.float64(0.2))
    step, way = 1e-5, jnp.cos(jnp.arange(14.0)).reshape(7, 2)
    numeric = (value(means + step * way, 0.2) - value(means - step * way, 0.2)) / (2.0 * step)
    np.testing.assert_allclose(jnp.vdot(by_means, way), numeric, rtol=1e-7)
    np.testing.assert_allclose(by_variance, (value(means, 0.2 + step) - value(means, 0.2 - step)) / 2e-5, rtol=1e-7)


X = np.zeros((3, 2), np.float32)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (X[:1], {}, "means has 1 rows; expected at least 2"),
        (X.astype(int), {}, "means has dtype"),
        (X, {"variance": 0.0}, "variance is 0.0; expected"),
        (X, {"variance": "silverman"}, "variance is 'silverman'"),
        (X, {"variance": np.ones(3)}, r"variance has shape \(3,\); expected shape \(2\)"),
        (X, {"variance": np.ones(2, int)}, "variance has dtype int32"),
        (X, {"labels": [0, 1]}, r"labels has shape \(2,\)"),
        (X, {"labels": [0.0, 1.0, 1.0]}, "labels has dtype float32"),
        (X, {"chunk_size": 1.5}, "chunk_size is 1.5"),
    ],
    ids=["one", "integers", "zero", "word", "shape", "ints", "count", "floats", "chunk"],
)
def test_bad_arguments(x, options, message):
    with pytest.raises(ValueError, match="kolchinsky_tracey_bounds: " + message):
        kolchinsky_tracey_bounds(x, **{"variance": 0.1} | options)
