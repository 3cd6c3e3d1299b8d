"""The GPU's tiles of direct distances: interpreted on the CPU, lowered for CUDA, and run on a GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.divergences.two_sample.pairs import squared_distances
from jaxdiv.divergences.two_sample.pairs_kernel import tiled_squared_distances


def _samples(n, m, d):
    rng = np.random.default_rng(n + m + d)
    x, y = rng.normal(size=(n, d)) + 30.0, rng.normal(size=(m, d)) + 30.0
    y[0] = x[0]
    return jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32)


def _check(got, x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    expected = np.square(x[:, None] - y).sum(-1)
    np.testing.assert_allclose(got, expected, rtol=x.shape[1] * 1.2e-7)
    assert got[0, 0] == 0.0


@pytest.mark.parametrize(("n", "m", "d"), [(16, 16, 4), (17, 40, 5), (3, 7, 1)])
def test_interpreted(n, m, d):
    """Whole tiles, ragged ones, and fewer rows than a tile."""
    x, y = _samples(n, m, d)
    _check(tiled_squared_distances(x, y, tile=16, interpret=True), x, y)


def test_lowers_for_cuda(hopper):
    shapes = jax.ShapeDtypeStruct((1000, 64), jnp.float32), jax.ShapeDtypeStruct((3001, 64), jnp.float32)
    lowered = jax.jit(tiled_squared_distances).trace(*shapes).lower(lowering_platforms=("cuda",))
    assert "squared_distances" in lowered.as_text(debug_info=True)


@pytest.mark.accelerator
@pytest.mark.parametrize(("n", "m", "d"), [(1024, 4096, 64), (1000, 5001, 3), (33, 100, 784)])
def test_on_a_gpu(n, m, d):
    x, y = _samples(n, m, d)
    _check(jax.jit(squared_distances)(x, y), x, y)


@pytest.mark.accelerator
def test_gradient_on_a_gpu():
    x, y = _samples(65, 70, 9)
    got = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sqrt(1.0 + squared_distances(x, y)))))(x)
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    difference = a[:, None] - b
    expected = (difference / np.sqrt(1.0 + np.square(difference).sum(-1))[..., None]).sum(1)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
