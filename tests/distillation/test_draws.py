"""Random draws belong to an example's global index, whatever batch or device it sits in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.distillation import KarrasUniform, LogNormal, draw

KEY = jax.random.key(7)


def some(index, key=KEY, num_classes=5, noise_law=None, shape=(2, 3)):
    return draw(
        key, jnp.asarray(index), sample_shape=shape, noise_law=noise_law or LogNormal(), num_classes=num_classes
    )


def drawn_by(index):
    return jax.jit(some)(np.array(index))


@pytest.mark.parametrize("index", [[3], [5, 3], [7, 6, 5, 4, 3, 2, 1, 0]])
def test_an_example_is_its_index(index):
    full, part = drawn_by(range(8)), drawn_by(index)
    for name in ("z", "noise", "real_noise", "sigma", "labels"):
        np.testing.assert_array_equal(getattr(part, name), getattr(full, name)[np.array(index)])


def test_shapes_and_dtypes():
    drawn = some(range(4))
    assert drawn.z.shape == drawn.noise.shape == drawn.real_noise.shape == (4, 2, 3)
    assert drawn.sigma.shape == drawn.labels.shape == (4,)
    assert drawn.labels.dtype == jnp.int32 and drawn.sigma.dtype == jnp.float32


def test_without_classes_there_are_no_labels_and_the_rest_stays():
    with_labels, without = some(range(4)), some(range(4), num_classes=None)
    assert without.labels is None
    np.testing.assert_array_equal(with_labels.z, without.z)
    np.testing.assert_array_equal(with_labels.sigma, without.sigma)


def test_another_key_draws_something_else():
    one, other = some(range(4)), some(range(4), key=jax.random.key(8))
    for a, b in zip(one[:4], other[:4], strict=True):
        assert not np.any(np.asarray(a) == np.asarray(b))


def test_moments_and_independence():
    """Standard normal numbers, uniform labels, and no correlation between any two of the four draws."""
    num = 20000
    drawn = jax.jit(lambda index: some(index, shape=(1,), noise_law=LogNormal(0.0, 1.0)))(np.arange(num))
    rows = np.stack([drawn.z[:, 0], drawn.noise[:, 0], drawn.real_noise[:, 0], np.log(drawn.sigma)])
    bound = 4.5 / np.sqrt(num)
    np.testing.assert_allclose(rows.mean(axis=1), 0, atol=bound)
    np.testing.assert_allclose(np.cov(rows), np.eye(4), atol=1.5 * bound)
    share = np.bincount(drawn.labels, minlength=5) / num
    np.testing.assert_allclose(share, 0.2, atol=bound * 0.4)


def test_jit_draws_the_same():
    jitted = jax.jit(lambda i: some(i, noise_law=KarrasUniform()))(jnp.arange(3))
    for a, b in zip(jitted, some(range(3), noise_law=KarrasUniform()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
