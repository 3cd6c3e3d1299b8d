"""The feed-forward part of a decoder's layer: SwiGLU once, or narrow ones one after another.

Shazeer: GLU variants improve transformer, arXiv 2002.05202 (SwiGLU without biases). Liao, Chen, Yi, Shiu: Revisiting
the shape convention of transformer language models, arXiv 2602.06471 (a stack of residual wide-narrow-wide blocks in
place of one narrow-wide-narrow block; that each of ours is a SwiGLU with its own norm is our choice).
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
    """(silu(x gate) * (x up)) down, without normalization: what every feed-forward part is made of."""

    def __init__(self, width: int, hidden: int, *, stack: Sequence[int], out_scale: float, rngs: nnx.Rngs):
        self.gate = Projection(width, hidden, stack=stack, rngs=rngs)
        self.up = Projection(width, hidden, stack=stack, rngs=rngs)
        self.down = Projection(hidden, width, stack=stack, init_scale=out_scale, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """``x`` [..., width] to the same shape."""
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class DenseFeedForward(nnx.Module):
    """x + swiglu(RMS(x))."""

    def __init__(self, config: DecoderConfig, *, stack: Sequence[int], rngs: nnx.Rngs):
        # As many writes into the stream share the variance as the stack has matrices, and attention's as many again.
        out_scale = 1 / math.sqrt(2 * math.prod(stack))
        self.norm = RMSNorm(config.width, stack=stack)
        self.swiglu = SwiGLU(config.width, config.hidden, stack=stack, out_scale=out_scale, rngs=rngs)

    def __call__(self, x: Array, balance: Array | None) -> tuple[Array, Array]:
        """The stream [B, T, width] after this part, and the empty load of a layer without experts."""
        return x + self.swiglu(self.norm(x)), jnp.zeros(0)


class HourglassFeedForward(nnx.Module):
    """``hourglass_depth`` blocks x + swiglu(RMS(x)) in a row, each narrower inside than the stream (wide-narrow-wide).

    Skip connections stay as wide as the stream. The parameters of the blocks are stacked behind those of the layers:
    kernels [L, K, in, out].
    """

    def __init__(self, config: DecoderConfig, *, stack: Sequence[int], rngs: nnx.Rngs):
        self.unroll = config.hourglass_depth if config.unroll else 1
        self.blocks = DenseFeedForward(config, stack=(*stack, config.hourglass_depth), rngs=rngs)

    def __call__(self, x: Array, balance: Array | None) -> tuple[Array, Array]:
        """The stream [B, T, width] after all blocks, and the empty load of a layer without experts."""
        graphdef, blocks = nnx.split(self.blocks)

        def block(h, params):
            return nnx.merge(graphdef, params)(h, balance)[0], None

        return jax.lax.scan(block, x, nnx.to_pure_dict(blocks), unroll=self.unroll)[0], jnp.zeros(0)
