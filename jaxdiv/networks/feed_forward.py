"""The feed-forward part of a decoder's layer: SwiGLU once, or an hourglass several times.

Shazeer: GLU variants improve transformer, arXiv 2002.05202 (SwiGLU without biases).
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv.networks.decoder_config import DecoderConfig
from jaxdiv.networks.decoder_layers import Projection, RMSNorm
from jaxdiv.typing import Array


class SwiGLU(nnx.Module):
    """(silu(x gate) * (x up)) down, without normalization: what dense layers and shared experts are made of."""

    def __init__(self, width: int, hidden: int, *, stack: Sequence[int], out_scale: float, rngs: nnx.Rngs):
        self.gate = Projection(width, hidden, stack=stack, rngs=rngs)
        self.up = Projection(width, hidden, stack=stack, rngs=rngs)
        self.down = Projection(hidden, width, stack=stack, init_scale=out_scale, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """``x`` [..., width] to the same shape."""
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class DenseFeedForward(nnx.Module):
    """SwiGLU of the normalized stream."""

    def __init__(self, config: DecoderConfig, *, stack: Sequence[int], rngs: nnx.Rngs):
        out_scale = 1 / math.sqrt(2 * config.num_layers)
        self.norm = RMSNorm(config.width, stack=stack)
        self.swiglu = SwiGLU(config.width, config.hidden, stack=stack, out_scale=out_scale, rngs=rngs)

    def __call__(self, x: Array, balance: Array | None) -> tuple[Array, Array]:
        """The update of the stream [B, T, width], and the empty load of a layer without experts."""
        return self.swiglu(self.norm(x)), jnp.zeros(0)
