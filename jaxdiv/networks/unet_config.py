"""Sizes of the EDM U-Net, and the list of its blocks that follows from them."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp

from jaxdiv.checks import check_choice, check_range, fail
from jaxdiv.networks.layers import default_compute_dtype


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of a ``UNet``. The defaults are EDM's DDPM++ for CIFAR-10 without its conditioning inputs.

    Attributes:
        image_size: height and width in pixels; every level but the first halves it.
        channels: colour channels.
        model_channels: base width.
        channel_mult: width of each level, as a multiple of ``model_channels``.
        num_blocks: residual blocks per level of the encoder; the decoder has one more.
        attn_resolutions: pixel sizes at which blocks have self-attention (the bottleneck always has).
        dropout: rate inside the blocks, in effect only where a key is given.
        label_dim: number of classes; 0 for none.
        augment_dim: length of the augmentation vector; 0 for none.
        channel_mult_emb: width of the noise embedding, as a multiple of ``model_channels``.
        dtype: compute dtype by name; None asks ``default_compute_dtype`` at each call. Parameters, statistics and
            softmax are float32 in any case.
    """

    image_size: int = 32
    channels: int = 3
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (2, 2, 2)
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    dropout: float = 0.0
    label_dim: int = 0
    augment_dim: int = 0
    channel_mult_emb: int = 4
    dtype: str | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "channels", "num_blocks", "channel_mult_emb"):
            check_range("UNetConfig", name, getattr(self, name), 1)
        for name in ("label_dim", "augment_dim"):
            check_range("UNetConfig", name, getattr(self, name), 0)
        check_range("UNetConfig", "dropout", self.dropout, 0.0, 1.0, open_high=True)
        if self.dtype is not None:
            check_choice("UNetConfig", "dtype", self.dtype, ("float16", "bfloat16", "float32", "float64"))
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise fail("UNetConfig", "channel_mult", f"is {self.channel_mult}", "one positive number per level")
        if self.model_channels < 4 or self.model_channels % 4:
            raise fail("UNetConfig", "model_channels", f"is {self.model_channels}", "a positive multiple of 4")
        if self.image_size % 2 ** (len(self.channel_mult) - 1):
            halvings = len(self.channel_mult) - 1
            raise fail("UNetConfig", "image_size", f"is {self.image_size}", f"a number that halves {halvings} times")

    def compute_dtype(self) -> jnp.dtype:
        """The dtype of activations, settled now."""
        return default_compute_dtype() if self.dtype is None else jnp.dtype(self.dtype)


def cifar10_edm(*, label_dim: int = 0, augment_dim: int = 0, dropout: float = 0.13) -> UNetConfig:
    """EDM's DDPM++ for CIFAR-10, 55.7M parameters; the published weights have ``augment_dim=9``."""
    return UNetConfig(label_dim=label_dim, augment_dim=augment_dim, dropout=dropout)


def small_8x8(*, channels: int = 1, label_dim: int = 0) -> UNetConfig:
    """A network for 8x8 images that trains on a CPU: 0.75M parameters."""
    return UNetConfig(
        image_size=8,
        channels=channels,
        model_channels=32,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(4,),
        label_dim=label_dim,
    )


@dataclass(frozen=True)
class BlockSpec:
    """One residual block: its name in EDM's state_dict, channels in and out, and its output's resolution."""

    name: str
    num_in: int
    num_out: int
    resolution: int
    resample: Literal["up", "down"] | None = None
    attention: bool = False


def encoder_blocks(config: UNetConfig) -> tuple[BlockSpec, ...]:
    """The encoder's blocks in order, after its first convolution. Attention is in every block at its resolutions."""
    blocks = []
    width = config.model_channels
    for level, mult in enumerate(config.channel_mult):
        size = config.image_size >> level
        if level:
            blocks.append(BlockSpec(f"{size}x{size}_down", width, width, size, "down"))
        for i in range(config.num_blocks):
            num_in, width = width, config.model_channels * mult
            attention = size in config.attn_resolutions
            blocks.append(BlockSpec(f"{size}x{size}_block{i}", num_in, width, size, attention=attention))
    return tuple(blocks)


def decoder_blocks(config: UNetConfig) -> tuple[BlockSpec, ...]:
    """The decoder's blocks in order; ``block*`` take one skip each, concatenated after their input.

    Attention is in the first bottleneck block always, and else only in the last block of a level.
    """
    skips = [config.model_channels, *(block.num_out for block in encoder_blocks(config))]
    blocks = []
    width = skips[-1]
    last = len(config.channel_mult) - 1
    for level in range(last, -1, -1):
        size = config.image_size >> level
        if level == last:
            blocks.append(BlockSpec(f"{size}x{size}_in0", width, width, size, attention=True))
            blocks.append(BlockSpec(f"{size}x{size}_in1", width, width, size))
        else:
            blocks.append(BlockSpec(f"{size}x{size}_up", width, width, size, "up"))
        for i in range(config.num_blocks + 1):
            num_in, width = width + skips.pop(), config.model_channels * config.channel_mult[level]
            attention = i == config.num_blocks and size in config.attn_resolutions
            blocks.append(BlockSpec(f"{size}x{size}_block{i}", num_in, width, size, attention=attention))
    return tuple(blocks)
