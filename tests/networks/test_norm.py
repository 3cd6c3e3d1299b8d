import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv.networks.norm import GroupNorm, group_norm, group_norm_silu, num_groups


def reference(x, shift, scale, bias, eps):
    """Two-pass float64 group normalization of x + shift."""
    x = np.asarray(x, np.float64) + shift[:, None, None, :]
    groups = num_groups(x.shape[-1])
    g = x.reshape(*x.shape[:3], groups, -1)
    g = (g - g.mean((1, 2, 4), keepdims=True)) / np.sqrt(g.var((1, 2, 4), keepdims=True) + eps)
    return g.reshape(x.shape) * scale + bias


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 3, 4, 12), "shift": (2, 12), "scale": (12,), "bias": (12,)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("channels, groups", [(1, 1), (4, 1), (8, 2), (24, 6), (128, 32), (384, 32), (512, 32)])
def test_num_groups(channels, groups):
    assert num_groups(channels) == groups


def test_equals_two_pass_float64(arrays):
    expected = reference(**arrays, eps=1e-6)
    np.testing.assert_allclose(group_norm(**arrays, eps=1e-6), expected, atol=1e-5)
    silu = expected / (1 + np.exp(-expected))
    np.testing.assert_allclose(group_norm_silu(**arrays, eps=1e-6), silu, atol=1e-5)


def test_shift_is_added_before_the_statistics(arrays):
    shifted = arrays["x"] + arrays["shift"][:, None, None, :]
    expected = group_norm(shifted, np.zeros(12, np.float32), arrays["scale"], arrays["bias"], eps=1e-6)
    np.testing.assert_allclose(group_norm(**arrays, eps=1e-6), expected, atol=1e-5)


def test_statistics_are_float32_for_bfloat16_images(arrays):
    x = jnp.asarray(arrays["x"] + 8.0, jnp.bfloat16)  # a bfloat16 sum of squares around 64 would lose the variance
    out = group_norm(x, arrays["shift"], arrays["scale"], arrays["bias"], eps=1e-6)
    assert out.dtype == jnp.bfloat16
    expected = reference(np.asarray(x, np.float64), arrays["shift"], arrays["scale"], arrays["bias"], 1e-6)
    np.testing.assert_allclose(np.asarray(out, np.float64), expected, atol=0.03)


def test_bfloat16_silu_and_its_gradient_are_the_float32_ones_to_rounding(arrays):
    """SiLU and its derivative in the image's dtype: a few roundings of 2^-9, and an absolute error near 0."""
    rest = {name: value for name, value in arrays.items() if name != "x"}
    x = jnp.asarray(arrays["x"], jnp.bfloat16)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=x.shape), jnp.float32)
    value, pullback = jax.vjp(lambda x: group_norm_silu(x, **rest, eps=1e-6), x)
    exact, exact_pullback = jax.vjp(lambda x: group_norm_silu(x, **rest, eps=1e-6), x.astype(jnp.float32))
    assert value.dtype == jnp.bfloat16
    error = np.abs(value.astype(jnp.float32) - exact)
    assert (error < 2.0**-6 * np.maximum(np.abs(exact), 0.5)).all()
    (gradient,), (exact_gradient,) = pullback(weights.astype(jnp.bfloat16)), exact_pullback(weights)
    difference = np.linalg.norm(gradient.astype(jnp.float32) - exact_gradient) / np.linalg.norm(exact_gradient)
    assert difference < 0.01


def test_gradient_equals_finite_differences(arrays, x64):
    arrays = {name: jnp.asarray(value, jnp.float64) for name, value in arrays.items()}
    weights = jnp.asarray(np.random.default_rng(1).normal(size=arrays["x"].shape))
    loss = jax.jit(lambda arrays: (group_norm_silu(**arrays, eps=1e-6) * weights).sum())
    gradient = jax.grad(loss)(arrays)
    for name, value in arrays.items():
        direction = jnp.asarray(np.random.default_rng(2).normal(size=value.shape))
        step = 1e-5
        up, down = (loss(arrays | {name: value + sign * step * direction}) for sign in (1, -1))
        np.testing.assert_allclose((gradient[name] * direction).sum(), (up - down) / (2 * step), rtol=1e-7)


def test_module_starts_as_plain_normalization(arrays):
    norm = GroupNorm(12, rngs=nnx.Rngs(0))
    expected = reference(arrays["x"], np.zeros((2, 12)), 1.0, 0.0, 1e-6)
    np.testing.assert_allclose(norm(arrays["x"]), expected, atol=1e-5)
    np.testing.assert_allclose(norm.silu(arrays["x"]), jax.nn.silu(expected), atol=1e-5)
    shifted = reference(arrays["x"], arrays["shift"], 1.0, 0.0, 1e-6)
    np.testing.assert_allclose(norm.silu(arrays["x"], arrays["shift"]), jax.nn.silu(shifted), atol=1e-5)


def test_channels_must_divide_into_groups():
    with pytest.raises(ValueError, match="GroupNorm: channels is 132; expected a multiple of its 32 groups"):
        GroupNorm(132, rngs=nnx.Rngs(0))
