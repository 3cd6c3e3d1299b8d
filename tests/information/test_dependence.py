"""HSIC against enumeration over distinct indices, its relatives against dense linear algebra in numpy."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.divergences import gaussian_kernel, laplace_kernel, linear_kernel
from jaxdiv.information import cka, hsic, normalized_hsic

WIDE, NARROW, LINEAR = gaussian_kernel(1.5), gaussian_kernel(0.6), linear_kernel()


def gaussian(z, width):
    return np.exp(-np.sum((z[:, None] - z[None]) ** 2, axis=-1) / (2.0 * width**2))


def enumerated(k, other):
    """The mean of k_ij (o_ij + o_qr - 2 o_iq) over all distinct i, j, q, r."""
    indices = range(len(k))
    terms = [
        k[i, j] * (other[i, j] + other[q, r] - 2.0 * other[i, q]) for i, j, q, r in itertools.permutations(indices, 4)
    ]
    return np.mean(terms)


def centered(k):
    h = np.eye(len(k)) - 1.0 / len(k)
    return h @ k @ h


@pytest.fixture
def data():
    x, y = np.random.default_rng(0).normal(size=(2, 6, 2))
    return x, y + 0.5 * x


def test_hsic_is_its_definition(x64, data):
    x, y = data
    k, m = gaussian(x, 1.5), gaussian(y, 0.6)
    kernels = {"x_kernel": WIDE, "y_kernel": NARROW}
    unbiased, biased = hsic(x, y, **kernels), hsic(x, y, estimator="biased", **kernels)
    np.testing.assert_allclose(unbiased.value, enumerated(k, m), rtol=1e-11)
    np.testing.assert_allclose(biased.value, np.trace(centered(k) @ m) / 36.0, rtol=1e-12)
    three = (k * m).mean() + k.mean() * m.mean() - 2.0 * (k.mean(0) * m.mean(0)).mean()  # A + B - 2 C of CS-QMI
    np.testing.assert_allclose(biased.value, three, rtol=1e-12)
    assert unbiased.kind == biased.kind == "not MI"


def test_linear_hsic_is_the_squared_norm_of_the_cross_covariance(x64, data):
    x, y = data
    value = hsic(x, y, x_kernel=LINEAR, y_kernel=LINEAR, estimator="biased").value
    cross = (x - x.mean(0)).T @ (y - y.mean(0)) / 6.0
    np.testing.assert_allclose(value, np.sum(cross**2), rtol=1e-12)
    alignment = np.sum(cross**2) / np.linalg.norm(np.cov(x.T, ddof=0)) / np.linalg.norm(np.cov(y.T, ddof=0))
    np.testing.assert_allclose(cka(x + 1e3, y - 1e3).value, alignment, rtol=1e-9)


def test_cka_and_nhsic_are_their_definitions(x64, data):
    x, y = data
    k, m = gaussian(x, 1.5), gaussian(y, 0.6)
    kernels = {"x_kernel": WIDE, "y_kernel": NARROW}
    ratio = enumerated(k, m) / np.sqrt(enumerated(k, k) * enumerated(m, m))
    np.testing.assert_allclose(cka(x, y, estimator="unbiased", **kernels).value, ratio, rtol=1e-11)
    resolved = [centered(g) @ np.linalg.inv(centered(g) + 0.01 * 6 * np.eye(6)) for g in (k, m)]
    estimate = normalized_hsic(x, y, ridge=0.01, **kernels)
    np.testing.assert_allclose(estimate.value, np.trace(resolved[0] @ resolved[1]), rtol=1e-11)
    assert estimate.ceiling == 5.0 and float(normalized_hsic(x, x, ridge=1e-12, **kernels)) < 5.0


def test_the_default_kernel_has_the_median_width():
    x = jnp.array([0.0, 1.0, 3.0, 7.0])
    median = gaussian_kernel(3.5)  # of 1, 2, 3, 4, 6, 7
    assert float(hsic(x, x)) == float(hsic(x, x, x_kernel=median, y_kernel=median))


def test_under_independence_only_the_unbiased_ones_are_centered():
    x, y = jax.random.normal(jax.random.key(0), (2, 600, 12, 1))

    def values(x, y):
        kernels = {"x_kernel": WIDE, "y_kernel": WIDE}
        names = ("unbiased", "biased")
        both = [[fn(x, y, estimator=name, **kernels).value for name in names] for fn in (hsic, cka)]
        return jnp.array(both)

    both = jax.jit(jax.vmap(values))(x, y)
    z = jnp.mean(both, axis=0) / (jnp.std(both, axis=0) / 600**0.5)
    assert np.all(np.abs(z[:, 0]) < 3.0) and np.all(z[:, 1] > 20.0)
    assert np.all(both[:, :, 1] >= 0.0) and np.all(both[:, 1] <= 1.0 + 1e-6)


def test_constants_duplicates_and_nan():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(16, 3)), jnp.float32)
    twice, constant = jnp.concatenate([x, x]), jnp.full((16, 2), 3.7)
    fns = [hsic, lambda x, y: hsic(x, y, estimator="biased"), normalized_hsic, cka]
    fns += [lambda x, y: cka(x, y, x_kernel=WIDE, y_kernel=laplace_kernel(1.0), estimator="unbiased")]

    @jax.jit
    def values(x, y):
        return jnp.stack([fn(x, y).value for fn in fns])

    np.testing.assert_array_equal(values(x, constant), 0.0)
    np.testing.assert_array_equal(values(constant, constant), 0.0)
    assert np.all(np.isnan(values(x.at[3, 1].set(jnp.nan), x))) and np.all(np.isnan(values(x, x.at[0, 0].set(jnp.nan))))
    biased = [hsic, cka, normalized_hsic]  # of the empirical law: every point twice changes nothing
    for fn, more in zip(biased, ({"estimator": "biased"}, {}, {"ridge": 1e-2}), strict=True):
        kernels = {"x_kernel": WIDE, "y_kernel": WIDE} | more
        run = jax.jit(functools.partial(fn, **kernels))
        assert abs(float(run(twice, twice**2)) / float(run(x, x**2)) - 1.0) < 1e-3
    np.testing.assert_allclose(float(jax.jit(cka)(x, x)), 1.0, rtol=1e-6)


def test_gradients(x64, data):
    x, y = map(jnp.asarray, data)
    kernels = {"x_kernel": WIDE, "y_kernel": NARROW}

    @jax.jit
    def total(x, y):
        pieces = (hsic(x, y, **kernels), normalized_hsic(x, y, ridge=0.1, **kernels), cka(x, y))
        return sum(piece.value for piece in pieces)

    direction = jnp.sin(jnp.arange(12.0).reshape(6, 2))
    slope = jnp.vdot(jax.jit(jax.grad(total))(x, y), direction)
    numeric = (total(x + 1e-5 * direction, y) - total(x - 1e-5 * direction, y)) / 2e-5
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)


X = np.zeros((4, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hsic(X[:3], X[:3]), "hsic: x has 3 rows; expected at least 4"),
        (lambda: cka(X[:1], X[:1]), "cka: x has 1 rows; expected at least 2"),
        (lambda: hsic(X, X[:3]), "hsic: y has 3 rows"),
        (lambda: hsic(X, X, x_kernel="gaussian"), "hsic: x_kernel is 'gaussian'; expected a Kernel"),
        (lambda: cka(X, X, y_kernel=1.0), "cka: y_kernel is 1.0; expected a Kernel"),
        (lambda: cka(X, X, estimator=None), "cka: estimator is None; expected one of"),
        (lambda: hsic(X, X, estimator="u"), "hsic: estimator is 'u'; expected one of 'unbiased'"),
        (lambda: normalized_hsic(X, X, ridge=0.0), "normalized_hsic: ridge is 0.0"),
        (lambda: normalized_hsic(X, X[:, :, None]), "normalized_hsic: y has shape"),
    ],
    ids=["few", "one", "rows", "word", "number", "none", "estimator", "ridge", "rank"],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
