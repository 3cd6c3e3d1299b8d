"""What the parts of the decoder are made of: matrices without bias and root-mean-square normalization.

A decoder keeps the parameters of all its layers in one array each, stacked on the leading axis, and scans over it. The
modules here and in the decoder's other files are built with that axis (``stack``) and called without it.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv.networks.layers import statistics_dtype
from jaxdiv.typing import Array, PRNGKey

_TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal variable cut off at 2."""


def truncated_normal(key: PRNGKey, shape: Sequence[int], std: float) -> Array:
    """Normal with the given standard deviation after its tails beyond two of the untruncated ones are cut off."""
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32) * (std / _TRUNCATED_STD)


class Projection(nnx.Module):
    """``x @ kernel``, with kernel [*stack, in, out] of standard deviation ``init_scale / sqrt(in)``."""

    def __init__(
        self, num_in: int, num_out: int, *, stack: Sequence[int] = (), init_scale: float = 1.0, rngs: nnx.Rngs
    ):
        std = init_scale / math.sqrt(num_in)
        self.kernel = nnx.Param(truncated_normal(rngs.params(), (*stack, num_in, num_out), std))

    def matrix(self, dtype: jnp.dtype) -> Array:
        """The kernel in the compute dtype."""
        return self.kernel[...].astype(dtype)

    def __call__(self, x: Array) -> Array:
        """``x`` [..., in] to [..., out]."""
        return x @ self.matrix(x.dtype)


def rms_normalize(x: Array, scale: Array, *, eps: float = 1e-6) -> Array:
    """X / sqrt(mean(x^2) + eps) * scale over the last axis, in float32 at least; the dtype of x.

    Zhang, Sennrich: Root mean square layer normalization, arXiv 1910.07467.
    """
    y = x.astype(statistics_dtype(x.dtype))
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return (y * scale).astype(x.dtype)


class RMSNorm(nnx.Module):
    """The scale of a root-mean-square normalization, one at first."""

    def __init__(self, width: int, *, stack: Sequence[int] = ()):
        self.scale = nnx.Param(jnp.ones((*stack, width)))

    def __call__(self, x: Array) -> Array:
        """Normalizes over the last axis of ``x``."""
        return rms_normalize(x, self.scale[...])
