"""Matrix Renyi entropy against numpy's eigenvalues, its limits, and what must vanish."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.divergences import gaussian_kernel, laplace_kernel, linear_kernel
from jaxdiv.information import matrix_renyi_entropy, matrix_renyi_mutual_information

ALPHAS = (0.4, 0.9, 1.0, 1.01, 1.5, 2, 3.0)
KERNEL = gaussian_kernel(0.8)


def gram(z):
    return np.exp(-np.sum((z[:, None] - z[None]) ** 2, axis=-1) / (2.0 * 0.8**2))


def entropy(k, alpha):
    values = np.clip(np.linalg.eigvalsh(k / len(k)), 1e-300, None)
    if alpha == 1:
        return -np.sum(values * np.log(values))
    return np.log(np.sum(values**alpha)) / (1.0 - alpha)


@pytest.fixture
def data():
    x, y = np.random.default_rng(0).normal(size=(2, 10, 3))
    return x, y + x


def test_it_is_the_entropy_of_the_eigenvalues(x64, data):
    x, y = data
    k, m = gram(x), gram(y)

    @jax.jit
    def values(x, y):
        pairs = []
        for alpha in ALPHAS:
            kernels = {"x_kernel": KERNEL, "y_kernel": KERNEL, "alpha": alpha}
            pairs.append(
                (matrix_renyi_entropy(x, kernel=KERNEL, alpha=alpha), matrix_renyi_mutual_information(x, y, **kernels))
            )
        return pairs

    for alpha, (own, mutual) in zip(ALPHAS, values(x, y), strict=True):
        np.testing.assert_allclose(own.value, entropy(k, alpha), rtol=1e-9)
        expected = entropy(k, alpha) + entropy(m, alpha) - entropy(k * m, alpha)
        np.testing.assert_allclose(mutual.value, expected, rtol=1e-9)
        assert own.kind == mutual.kind == "not MI" and float(own) < float(own.ceiling)
        np.testing.assert_allclose(own.ceiling, np.log(10.0), rtol=1e-12)


def test_near_alpha_one_float32_keeps_its_digits(data):
    x = np.float32(data[0])
    values = [float(matrix_renyi_entropy(x, kernel=KERNEL, alpha=a)) for a in (1.0, 1.0 + 1e-6, 1.01)]
    np.testing.assert_allclose(values[1], values[0], rtol=1e-5)
    np.testing.assert_allclose(values[2], entropy(gram(np.float64(x)), 1.01), rtol=1e-5)


def test_limits_constants_duplicates_and_nan():
    x = jnp.linspace(0.0, 9.0, 10)
    far, constant = 1e4 * x, jnp.full(10, 2.3)
    for alpha in (1.01, 2.0, 3.0):

        def mutual(x, y, alpha=alpha):
            kernels = {"x_kernel": KERNEL, "y_kernel": laplace_kernel(1.0)}
            return matrix_renyi_mutual_information(x, y, alpha=alpha, **kernels).value

        mutual = jax.jit(mutual)
        np.testing.assert_allclose(mutual(far, far), np.log(10.0), rtol=1e-5)
        for left, right in ((x, constant), (constant, x), (constant, constant)):
            np.testing.assert_allclose(mutual(left, right), 0.0, atol=2e-6)
        assert jnp.isnan(mutual(x.at[3].set(jnp.nan), x)) and jnp.isnan(mutual(x, x.at[0].set(jnp.nan)))
        twice = jnp.concatenate([x, x])  # the same spectrum, half of it 0
        own = jax.jit(functools.partial(matrix_renyi_entropy, kernel=KERNEL, alpha=alpha))
        entropies = [own(z).value for z in (x, twice)]
        np.testing.assert_allclose(entropies[0], entropies[1], rtol=1e-5)
    assert 0.0 < float(jax.jit(matrix_renyi_mutual_information)(x, x)) < np.log(10.0)  # the median width
    assert matrix_renyi_entropy(x.astype(jnp.bfloat16)).value.dtype == jnp.float32


def test_gradients(x64, data):
    x, y = map(jnp.asarray, data)
    way = jnp.cos(jnp.arange(30.0)).reshape(10, 3)

    @jax.jit
    def value(x):
        kernels = {"x_kernel": KERNEL, "y_kernel": KERNEL}
        return sum(matrix_renyi_mutual_information(x, y, alpha=a, **kernels).value for a in (0.7, 1, 2, 2.5))

    numeric = (value(x + 1e-5 * way) - value(x - 1e-5 * way)) / 2e-5
    np.testing.assert_allclose(jnp.vdot(jax.grad(value)(x), way), numeric, rtol=1e-6)


X = np.zeros((4, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: matrix_renyi_entropy(X, alpha=0.0), "entropy: alpha is 0.0; expected a number in"),
        (lambda: matrix_renyi_entropy(X, alpha="one"), "entropy: alpha is 'one'; expected a real"),
        (lambda: matrix_renyi_entropy(X[:1]), "entropy: x has 1 rows; expected at least 2"),
        (lambda: matrix_renyi_entropy(X, kernel=1.0), "entropy: kernel is 1.0; expected a Kernel"),
        (lambda: matrix_renyi_mutual_information(X, X[:2]), "information: y has 2 rows"),
        (lambda: matrix_renyi_mutual_information(X, X, y_kernel=linear_kernel()), "y_kernel has kind 'polynomial'"),
        (lambda: matrix_renyi_mutual_information(X, X.astype(int)), "information: y has dtype"),
    ],
    ids="zero word one kernel rows linear integers".split(),
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match="matrix_renyi_.*" + message):
        call()
