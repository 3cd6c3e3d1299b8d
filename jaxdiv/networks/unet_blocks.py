"""The parts of the EDM U-Net: noise embedding, resampling, attention and the residual block."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiv.networks.layers import Conv, Linear, dropout, statistics_dtype
from jaxdiv.networks.norm import GroupNorm
from jaxdiv.networks.unet_config import BlockSpec, UNetConfig
from jaxdiv.typing import Array, PRNGKey

SKIP_SCALE = math.sqrt(0.5)
"""Every sum of two branches is scaled to keep the variance of one."""


def positional_embedding(c_noise: Array, num_channels: int) -> Array:
    """Sines, then cosines, of ``c_noise`` [B] at frequencies from 1 down to 1/10000, both ends included.

    EDM computes [cos, sin] and swaps the halves, which is this.

    Returns:
        [B, num_channels].
    """
    half = num_channels // 2
    frequencies = (1 / 10000) ** (np.arange(half) / (half - 1))
    angles = c_noise[:, None] * jnp.asarray(frequencies, c_noise.dtype)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def upsample(x: Array) -> Array:
    """Each pixel of [B, H, W, C] becomes 2x2 pixels."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def downsample(x: Array) -> Array:
    """Mean over 2x2 pixels of [B, H, W, C]."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def attention(q: Array, k: Array, v: Array) -> Array:
    """Softmax attention softmax(q k^T / sqrt(C)) v with one head: [B, N, C] each, softmax in float32 at least."""
    logits = jnp.einsum("bqc,bkc->bqk", q, k, preferred_element_type=statistics_dtype(q.dtype))
    weights = jax.nn.softmax(logits / math.sqrt(q.shape[-1]), axis=-1)
    return jnp.einsum("bqk,bkc->bqc", weights.astype(v.dtype), v)


class UNetBlock(nnx.Module):
    """norm-SiLU-conv, + embedding, norm-SiLU-dropout-conv, + skip; then attention where the block has it."""

    def __init__(self, spec: BlockSpec, config: UNetConfig, *, rngs: nnx.Rngs):
        num_in, num_out = spec.num_in, spec.num_out
        self.resample, self.dropout = spec.resample, config.dropout
        self.norm0 = GroupNorm(num_in, rngs=rngs)
        self.conv0 = Conv(num_in, num_out, rngs=rngs)
        self.affine = Linear(config.model_channels * config.channel_mult_emb, num_out, rngs=rngs)
        self.norm1 = GroupNorm(num_out, rngs=rngs)
        self.conv1 = Conv(num_out, num_out, init_scale=1e-5, rngs=rngs)
        projects = num_in != num_out or spec.resample is not None
        self.skip = Linear(num_in, num_out, rngs=rngs) if projects else None
        self.norm2 = GroupNorm(num_out, rngs=rngs) if spec.attention else None
        # The kernel's columns are all of q, then k, then v.
        self.qkv = Linear(num_out, 3 * num_out, init_scale=math.sqrt(0.2), rngs=rngs) if spec.attention else None
        self.proj = Linear(num_out, num_out, init_scale=1e-5, rngs=rngs) if spec.attention else None

    def __call__(self, x: Array, embedding: Array, *, key: PRNGKey | None) -> Array:
        """``x`` [B, H, W, num_in] and ``embedding`` [B, E] to [B, H', W', num_out]."""
        y = self.norm0.silu(x)
        if self.resample:
            y = upsample(y) if self.resample == "up" else downsample(y)
        y = self.conv0.without_bias(y)
        shift = self.affine(embedding) + self.conv0.bias[...]
        y = dropout(self.norm1.silu(y, shift), self.dropout, key)
        bias = self.conv1.bias[...] if self.skip is None else self.conv1.bias[...] + self.skip.bias[...]
        x = (self._skip(x) + self.conv1.without_bias(y) + bias.astype(x.dtype)) * SKIP_SCALE
        return x if self.qkv is None else (x + self._attend(x, self.qkv)) * SKIP_SCALE

    def _skip(self, x: Array) -> Array:
        """The other branch, without its bias."""
        if self.skip is None:
            return x
        if self.resample == "up":  # a 1x1 convolution commutes with copying pixels: a quarter of the work
            return upsample(self.skip.without_bias(x))
        return self.skip.without_bias(downsample(x) if self.resample == "down" else x)

    def _attend(self, x: Array, qkv: Linear) -> Array:
        tokens = self.norm2(x).reshape(x.shape[0], -1, x.shape[-1])
        # Three products with a third of the kernel each, so that q, k and v need no copies out of one array.
        kernels = jnp.split(qkv.kernel[...].astype(x.dtype), 3, axis=-1)
        biases = jnp.split(qkv.bias[...].astype(x.dtype), 3)
        q, k, v = (tokens @ kernel + bias for kernel, bias in zip(kernels, biases, strict=True))
        return self.proj(attention(q, k, v)).reshape(x.shape)
