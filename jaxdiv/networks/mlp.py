"""A residual MLP on flattened pixels: the denoiser for images too small for convolutions to pay."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv.checks import check_range
from jaxdiv.networks.layers import (
    Linear,
    check_image_inputs,
    dropout,
    fourier_features,
    one_hot_labels,
    statistics_dtype,
)
from jaxdiv.typing import Array, PRNGKey


@dataclass(frozen=True)
class MLPConfig:
    """Sizes of an ``MLPDenoiser``; the defaults are 0.84M parameters on 8x8 digits.

    Attributes:
        image_size: height and width in pixels.
        channels: colour channels.
        width: of the residual stream.
        hidden: of each block's inner layer.
        num_blocks: residual blocks; each one's output is a feature vector for a discriminator.
        embedding_dim: of the noise-level embedding that scales and shifts each block.
        label_dim: number of classes; 0 for none.
        dropout: rate inside the blocks, in effect only where a key is given.
    """

    image_size: int = 8
    channels: int = 1
    width: int = 192
    hidden: int = 384
    num_blocks: int = 4
    embedding_dim: int = 128
    label_dim: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("image_size", "channels", "width", "hidden", "num_blocks"):
            check_range("MLPConfig", name, getattr(self, name), 1)
        check_range("MLPConfig", "embedding_dim", self.embedding_dim, 2)
        check_range("MLPConfig", "label_dim", self.label_dim, 0)
        check_range("MLPConfig", "dropout", self.dropout, 0.0, 1.0, open_high=True)


def _normalize(x: Array) -> Array:
    """Layer normalization without parameters, with statistics in float32."""
    y = x.astype(statistics_dtype(x.dtype))
    y = y - y.mean(axis=-1, keepdims=True)
    return (y * jax.lax.rsqrt(jnp.mean(y**2, axis=-1, keepdims=True) + 1e-6)).astype(x.dtype)


class _Block(nnx.Module):
    """h + W2 silu(W1 (norm(h) (1 + scale) + shift)), scale and shift from the noise embedding."""

    def __init__(self, config: MLPConfig, *, rngs: nnx.Rngs):
        self.modulation = Linear(config.embedding_dim, 2 * config.width, init_scale=0.1, rngs=rngs)
        self.dense0 = Linear(config.width, config.hidden, rngs=rngs)
        self.dense1 = Linear(config.hidden, config.width, init_scale=0.1, rngs=rngs)
        self.dropout = config.dropout

    def __call__(self, h: Array, embedding: Array, *, key: PRNGKey | None) -> Array:
        scale, shift = jnp.split(self.modulation(embedding), 2, axis=-1)
        y = jax.nn.silu(self.dense0(_normalize(h) * (1 + scale) + shift))
        return h + self.dense1(dropout(y, self.dropout, key))


class MLPDenoiser(nnx.Module):
    """F(x, c_noise): raw network output for ``diffusion.precondition``, near zero at initialisation.

    Computes in the dtype of ``x`` (float32 at least), since at these sizes a lower one gains nothing.
    """

    def __init__(self, config: MLPConfig, *, rngs: nnx.Rngs):
        self.config = config
        pixels = config.image_size**2 * config.channels
        self.embed0 = Linear(64, config.embedding_dim, rngs=rngs)
        self.embed1 = Linear(config.embedding_dim, config.embedding_dim, rngs=rngs)
        self.embed_label = (
            Linear(config.label_dim, config.embedding_dim, use_bias=False, rngs=rngs) if config.label_dim else None
        )
        self.inputs = Linear(pixels, config.width, rngs=rngs)
        self.blocks = nnx.Dict({f"block{i}": _Block(config, rngs=rngs) for i in range(config.num_blocks)})
        self.outputs = Linear(config.width, pixels, init_scale=1e-5, rngs=rngs)

    def __call__(
        self,
        x: Array,
        c_noise: Array,
        labels: Array | None = None,
        *,
        key: PRNGKey | None = None,
        with_features: bool = False,
    ) -> Array | tuple[Array, tuple[Array, ...]]:
        """The raw output F, and with ``with_features`` also the hidden state after each block.

        Args:
            x: scaled noisy images [B, H, W, C].
            c_noise: noise input [B], ln(sigma)/4 under EDM preconditioning.
            labels: class integers [B] or one-hot rows [B, label_dim]; None means no class.
            key: turns dropout on; None is deterministic.
            with_features: return ``(F, features)``.

        Returns:
            F of x's shape; features: ``num_blocks`` arrays [B, width].

        Raises:
            ValueError: x, c_noise or labels of another shape than the configuration's.
        """
        config = self.config
        check_image_inputs("MLPDenoiser", x, c_noise, (config.image_size, config.image_size, config.channels))
        dtype = statistics_dtype(x.dtype)
        classes = one_hot_labels("MLPDenoiser", labels, config.label_dim, x.shape[0], dtype)
        embedding = self.embed0(fourier_features(c_noise.astype(dtype), 64))
        if classes is not None:
            embedding = embedding + self.embed_label(classes * math.sqrt(config.label_dim))
        embedding = jax.nn.silu(self.embed1(jax.nn.silu(embedding)))
        h = self.inputs(x.reshape(x.shape[0], -1).astype(dtype))
        features = []
        for i in range(config.num_blocks):
            block_key = None if key is None else jax.random.fold_in(key, i)
            h = self.blocks[f"block{i}"](h, embedding, key=block_key)
            features.append(h)
        out = self.outputs(_normalize(h)).reshape(x.shape)
        return (out, tuple(features)) if with_features else out
