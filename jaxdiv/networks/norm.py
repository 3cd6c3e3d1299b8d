"""Group normalization, alone and followed by SiLU.

Group normalization of x + shift is the affine map x * a + b whose coefficients, one pair per image and channel, follow
from two sums per image and channel. The sums and the map are the only passes over the image. A group whose mean is
thousands of times its deviation so loses its digits: the variance is a difference of two squares.

Derivatives are autodiff's. Two hand-written backward passes, which kept only the bfloat16 image and computed float32
intermediates again, were no faster on an H200: XLA stores those before its reductions either way.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv.checks import fail
from jaxdiv.networks.layers import statistics_dtype
from jaxdiv.typing import Array


def num_groups(channels: int) -> int:
    """EDM's rule: at most 32 groups, at least 4 channels in each."""
    return max(1, min(32, channels // 4))


def _sums(x: Array) -> tuple[Array, Array]:
    """Sum and sum of squares over all axes but the first and last: two arrays [B, C], at least float32."""
    x = x.astype(statistics_dtype(x.dtype))
    axes = tuple(range(1, x.ndim - 1))
    return x.sum(axes), jnp.square(x).sum(axes)


def _num_pixels(x: Array) -> int:
    return math.prod(x.shape[1:-1])


def _coefficients(
    total: Array, squares: Array, shift: Array, scale: Array, bias: Array, *, count: int, eps: float
) -> tuple[Array, Array]:
    """(a, b) [B, C] such that group_norm(x + shift) = x * a + b, from the sums of x over ``count`` pixels."""
    batch, channels = total.shape
    groups = num_groups(channels)
    shift = jnp.broadcast_to(shift, total.shape).astype(total.dtype)
    size = count * (channels // groups)
    shifted_squares = squares + 2 * shift * total + count * shift**2

    def mean_of_group(per_channel: Array) -> Array:
        per_group = per_channel.reshape(batch, groups, -1).sum(axis=-1) / size
        return jnp.repeat(per_group, channels // groups, axis=-1)

    mean = mean_of_group(total + count * shift)
    variance = jnp.maximum(mean_of_group(shifted_squares) - mean**2, 0.0)
    a = jax.lax.rsqrt(variance + eps) * scale
    return a, (shift - mean) * a + bias


def _expand(per_channel: Array, ndim: int) -> Array:
    """[B, C] to [B, 1, ..., 1, C]."""
    return per_channel.reshape(per_channel.shape[0], *(1,) * (ndim - 2), per_channel.shape[-1])


def _affine(x: Array, a: Array, b: Array) -> Array:
    """The map x * a + b, in the statistics' dtype."""
    return x.astype(a.dtype) * _expand(a, x.ndim) + _expand(b, x.ndim)


def group_norm(x: Array, shift: Array, scale: Array, bias: Array, *, eps: float) -> Array:
    """Group normalization of ``x + shift`` over pixels and the channels of a group.

    Args:
        x: [B, ..., C], any floating dtype; statistics are float32 at least.
        shift: [B, C] or [C], added to x per image and channel before the statistics are taken.
        scale: [C].
        bias: [C].
        eps: added to the variance.

    Returns:
        An array of x's shape and dtype.
    """
    count = _num_pixels(x)
    a, b = _coefficients(*_sums(x), shift, scale, bias, count=count, eps=eps)
    return _affine(x, a, b).astype(x.dtype)


def group_norm_silu(x: Array, shift: Array, scale: Array, bias: Array, *, eps: float) -> Array:
    """``silu(group_norm(x, shift, scale, bias))``, arguments as ``group_norm``.

    SiLU and its derivative are computed in x's dtype: a bfloat16 image's gradient is stored at half of float32's size.
    """
    count = _num_pixels(x)
    a, b = _coefficients(*_sums(x), shift, scale, bias, count=count, eps=eps)
    return jax.nn.silu(_affine(x, a, b).astype(x.dtype))


class GroupNorm(nnx.Module):
    """Scale and bias of a group normalization, with the two ways to apply it."""

    def __init__(self, channels: int, *, eps: float = 1e-6, rngs: nnx.Rngs):
        if channels % num_groups(channels):
            raise fail("GroupNorm", "channels", f"is {channels}", f"a multiple of its {num_groups(channels)} groups")
        del rngs  # ones and zeros need no key; taken so that every layer is built alike
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.eps = eps

    def __call__(self, x: Array) -> Array:
        """Normalizes ``x`` [B, ..., C] per image."""
        return group_norm(x, jnp.zeros(x.shape[-1]), self.scale[...], self.bias[...], eps=self.eps)

    def silu(self, x: Array, shift: Array | None = None) -> Array:
        """SiLU of the normalized ``x + shift``, with ``x`` [B, ..., C] and ``shift`` [B, C] or [C]."""
        shift = jnp.zeros(x.shape[-1]) if shift is None else shift
        return group_norm_silu(x, shift, self.scale[...], self.bias[...], eps=self.eps)
