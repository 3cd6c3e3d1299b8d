import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal
from flax import nnx

from jaxdiv.networks import layers


@pytest.mark.parametrize("backend, expected", [("cpu", jnp.float32), ("gpu", jnp.bfloat16), ("tpu", jnp.bfloat16)])
def test_default_compute_dtype_asks_when_called(backend, expected, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert layers.default_compute_dtype() == expected


@pytest.mark.parametrize(
    "dtype, expected", [("bfloat16", "float32"), ("float16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_statistics_dtype(dtype, expected):
    assert layers.statistics_dtype(jnp.dtype(dtype)) == expected


@pytest.mark.parametrize("shape, fans", [((50, 70), 120), ((3, 3, 20, 30), 450)])
def test_xavier_uniform_fills_its_interval(shape, fans):
    values = layers.xavier_uniform(jax.random.key(0), shape, 0.5)
    limit = 0.5 * np.sqrt(6 / fans)
    assert np.abs(values).max() <= limit
    assert np.abs(values).max() > 0.99 * limit
    np.testing.assert_allclose(values.std(), limit / np.sqrt(3), rtol=0.03)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (3, 3, 4, 6), (16, 32)])
def test_xavier_uniform_draws_what_a_draw_of_its_shape_gives(shape):
    """Power of two or not; one program serves all shapes up to the next one."""
    limit = np.sqrt(6 / (np.prod(shape[:-2]) * (shape[-2] + shape[-1])))
    expected = jax.random.uniform(jax.random.key(3), shape, jnp.float32, -limit, limit)
    np.testing.assert_array_equal(layers.xavier_uniform(jax.random.key(3), shape), expected)


@pytest.mark.parametrize("kernel_size, stride, padding", [(3, 1, 1), (4, 2, 1), (3, 2, 1)])
def test_conv_pads_both_sides_alike(kernel_size, stride, padding):
    conv = layers.Conv(2, 3, kernel_size=kernel_size, stride=stride, padding=padding, rngs=nnx.Rngs(0))
    conv.bias[...] = jnp.arange(3.0)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 2)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))[0]
    expected = np.stack(
        [
            sum(scipy.signal.correlate2d(padded[..., i], conv.kernel[..., i, o], "valid") for i in range(2)) + o
            for o in range(3)
        ],
        axis=-1,
    )[::stride, ::stride]
    np.testing.assert_allclose(conv(x)[0], expected, atol=1e-5)
    np.testing.assert_allclose(conv.without_bias(x)[0] + np.arange(3.0), conv(x)[0], atol=1e-6)


def test_linear_computes_in_its_inputs_dtype():
    linear = layers.Linear(4, 3, rngs=nnx.Rngs(1))
    linear.bias[...] = jnp.array([1.0, 2.0, 3.0])
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(linear(x), x @ linear.kernel[...] + np.array([1.0, 2.0, 3.0]), rtol=1e-5)
    assert linear(jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16
    assert layers.Linear(4, 3, use_bias=False, rngs=nnx.Rngs(1)).bias is None


def test_dropout_keeps_the_mean_and_needs_a_key():
    x = jnp.ones((200, 200))
    assert layers.dropout(x, 0.3, None) is x
    assert layers.dropout(x, 0.0, jax.random.key(0)) is x
    y = layers.dropout(x, 0.3, jax.random.key(0))
    np.testing.assert_allclose((y == 0).mean(), 0.3, atol=0.01)
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)


def test_fourier_features_are_on_the_unit_circle():
    c_noise = jnp.linspace(-1.5, 1.1, 7)
    features = layers.fourier_features(c_noise, 8)
    assert features.shape == (7, 8)
    np.testing.assert_allclose(features[:, :4] ** 2 + features[:, 4:] ** 2, 1.0, rtol=1e-6)
    np.testing.assert_allclose(features[:, 0], np.cos(0.5 * c_noise), rtol=1e-6)
    np.testing.assert_allclose(features[:, 7], np.sin(32 * c_noise), atol=1e-5)


def test_one_hot_labels():
    rows = layers.one_hot_labels("net", jnp.array([2, 0]), 3, 2, jnp.float32)
    np.testing.assert_array_equal(rows, [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(layers.one_hot_labels("net", rows, 3, 2, jnp.float32), rows)
    np.testing.assert_array_equal(layers.one_hot_labels("net", None, 3, 2, jnp.float32), np.zeros((2, 3)))
    assert layers.one_hot_labels("net", None, 0, 2, jnp.float32) is None


@pytest.mark.parametrize(
    "labels, label_dim, message",
    [
        (np.array([1, 0]), 0, "label_dim=0"),
        (np.array([1, 0, 2]), 3, r"shape \(2\)"),
        (np.ones((2, 4), np.float32), 3, r"shape \(2, 3\)"),
    ],
)
def test_one_hot_labels_refuses(labels, label_dim, message):
    with pytest.raises(ValueError, match=message):
        layers.one_hot_labels("net", labels, label_dim, 2, jnp.float32)
