import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv.networks import UNetConfig
from jaxdiv.networks.unet_blocks import UNetBlock, attention, downsample, positional_embedding, upsample
from jaxdiv.networks.unet_config import BlockSpec

CONFIG = UNetConfig(image_size=4, model_channels=8, channel_mult=(1,), num_blocks=1, channel_mult_emb=2)
IMAGE = np.random.default_rng(0).normal(size=(2, 4, 4, 8)).astype(np.float32)
EMBEDDING = np.random.default_rng(1).normal(size=(2, 16)).astype(np.float32)


def block(num_out=8, **kwargs):
    return UNetBlock(BlockSpec("block", 8, num_out, 4, **kwargs), CONFIG, rngs=nnx.Rngs(0))


def test_positional_embedding_has_sines_first_and_both_end_frequencies():
    embedding = positional_embedding(jnp.array([0.7]), 8)[0]
    frequencies = [1.0, 10000 ** (-1 / 3), 10000 ** (-2 / 3), 1e-4]
    np.testing.assert_allclose(embedding[:4], [math.sin(0.7 * f) for f in frequencies], rtol=1e-6)
    np.testing.assert_allclose(embedding[4:], [math.cos(0.7 * f) for f in frequencies], rtol=1e-6)


def test_resampling():
    np.testing.assert_array_equal(upsample(IMAGE), IMAGE.repeat(2, axis=1).repeat(2, axis=2))
    pixel = downsample(IMAGE)[1, 1, 0]
    np.testing.assert_allclose(pixel, IMAGE[1, 2:4, 0:2].mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(downsample(upsample(IMAGE)), IMAGE, rtol=1e-6)


def test_attention_equals_its_definition():
    q, k, v = np.random.default_rng(2).normal(size=(3, 2, 5, 8)).astype(np.float32)
    weights = np.exp(np.einsum("bqc,bkc->bqk", q, k) / np.sqrt(8))
    expected = np.einsum("bqk,bkc->bqc", weights / weights.sum(-1, keepdims=True), v)
    np.testing.assert_allclose(attention(q, k, v), expected, rtol=2e-5, atol=1e-6)
    large = attention(*(jnp.asarray(a * 30, jnp.bfloat16) for a in (q, k, v)))
    assert large.dtype == jnp.bfloat16 and np.isfinite(np.asarray(large, np.float32)).all()


def test_initial_scales():
    parts = block(num_out=16, attention=True)
    for conv, fans in ((parts.conv0, 9 * 24), (parts.conv1, 9 * 32)):
        limit = math.sqrt(6 / fans) * (1e-5 if conv is parts.conv1 else 1)
        assert 0.9 * limit < np.abs(conv.kernel[...]).max() <= limit
        np.testing.assert_array_equal(conv.bias[...], 0.0)
    for linear, fans, scale in ((parts.qkv, 64, math.sqrt(0.2)), (parts.proj, 32, 1e-5), (parts.skip, 24, 1.0)):
        limit = scale * math.sqrt(6 / fans)
        assert 0.9 * limit < np.abs(linear.kernel[...]).max() <= limit


def test_each_sum_is_scaled_by_the_square_root_of_a_half():
    plain = block()(IMAGE, EMBEDDING, key=None)
    np.testing.assert_allclose(plain, IMAGE * math.sqrt(0.5), atol=1e-3)  # conv1 is 1e-5 of a usual layer
    attending = block(attention=True)(IMAGE, EMBEDDING, key=None)
    np.testing.assert_allclose(attending, IMAGE / 2, atol=1e-3)


@pytest.mark.parametrize("resample, operation", [("down", downsample), ("up", upsample)])
def test_skip_projects_after_resampling_also_between_equal_widths(resample, operation):
    parts = block(resample=resample)
    parts.skip.bias[...] = jnp.arange(8.0)
    expected = (operation(IMAGE) @ parts.skip.kernel[...] + np.arange(8.0)) * math.sqrt(0.5)
    np.testing.assert_allclose(parts(IMAGE, EMBEDDING, key=None), expected, atol=2e-3)


def test_skip_has_no_projection_between_equal_widths_and_no_resampling():
    assert block().skip is None
    assert block(num_out=16).skip is not None


def test_embedding_shifts_before_the_second_norm():
    """An embedding that adds the same to all channels of a group changes nothing: the norm follows the addition."""
    parts = block()
    parts.conv1.kernel[...] = parts.conv1.kernel[...] * 1e5
    parts.affine.kernel[...] = jnp.ones((16, 8))
    same = parts(IMAGE, EMBEDDING, key=None)
    np.testing.assert_allclose(same, parts(IMAGE, EMBEDDING + 1.0, key=None), atol=1e-3)
    parts.affine.kernel[...] = jnp.ones((16, 8)).at[:, ::2].set(-1.0)
    assert np.abs(parts(IMAGE, EMBEDDING + 1.0, key=None) - parts(IMAGE, EMBEDDING, key=None)).max() > 0.1


def test_block_is_differentiable_in_forward_mode():
    parts = block(num_out=16, attention=True)
    parts.conv1.kernel[...] = parts.conv1.kernel[...] * 1e5
    graphdef, state = nnx.split(parts)
    f = jax.jit(lambda x: nnx.merge(graphdef, state)(x, EMBEDDING, key=None).sum())
    tangent = np.ones_like(IMAGE) * np.arange(8)
    _, directional = jax.jvp(f, (IMAGE,), (tangent.astype(np.float32),))
    np.testing.assert_allclose(directional, (jax.grad(f)(IMAGE) * tangent).sum(), rtol=1e-3)
