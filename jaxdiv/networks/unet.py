"""The EDM U-Net (DDPM++ variant of SongUNet).

Karras, Aittala, Aila, Laine: Elucidating the design space of diffusion-based generative models, arXiv 2206.00364;
Song et al.: Score-based generative modeling through stochastic differential equations, arXiv 2011.13456.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv.checks import check_shape, fail
from jaxdiv.networks.layers import Conv, Linear, check_image_inputs, one_hot_labels, statistics_dtype
from jaxdiv.networks.norm import GroupNorm
from jaxdiv.networks.unet_blocks import UNetBlock, positional_embedding
from jaxdiv.networks.unet_config import UNetConfig, decoder_blocks, encoder_blocks
from jaxdiv.typing import Array, PRNGKey


class UNet(nnx.Module):
    """F(x, c_noise): raw network output for ``diffusion.precondition``, near zero at initialisation.

    Parameters carry the names of EDM's state_dict (``enc.32x32_block0.conv0`` ...), so that ``load_edm_weights`` is a
    change of layout. Images are [B, H, W, C].
    """

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        width = config.model_channels
        embedding_dim = width * config.channel_mult_emb
        self.map_label = Linear(config.label_dim, width, rngs=rngs) if config.label_dim else None
        self.map_augment = Linear(config.augment_dim, width, use_bias=False, rngs=rngs) if config.augment_dim else None
        self.map_layer0 = Linear(width, embedding_dim, rngs=rngs)
        self.map_layer1 = Linear(embedding_dim, embedding_dim, rngs=rngs)

        self._full = full = f"{config.image_size}x{config.image_size}"
        encoder: dict[str, Any] = {f"{full}_conv": Conv(config.channels, width, rngs=rngs)}
        decoder: dict[str, Any] = {}
        for spec in encoder_blocks(config):
            encoder[spec.name] = UNetBlock(spec, config, rngs=rngs)
        for spec in decoder_blocks(config):
            decoder[spec.name] = UNetBlock(spec, config, rngs=rngs)
        width = spec.num_out
        decoder[f"{full}_aux_norm"] = GroupNorm(width, rngs=rngs)
        decoder[f"{full}_aux_conv"] = Conv(width, config.channels, init_scale=1e-5, rngs=rngs)
        self.enc, self.dec = nnx.Dict(encoder), nnx.Dict(decoder)

    def __call__(
        self,
        x: Array,
        c_noise: Array,
        labels: Array | None = None,
        *,
        augment_labels: Array | None = None,
        key: PRNGKey | None = None,
        with_features: bool = False,
    ) -> Array | tuple[Array, tuple[Array, ...]]:
        """The raw output F, and with ``with_features`` also feature maps for a discriminator.

        The maps are the encoder's last output at each resolution, finest first, then the bottleneck after its
        attention. None depends on the decoder, so a caller that drops F does not pay for it under ``jit``.

        Args:
            x: scaled noisy images [B, H, W, C].
            c_noise: noise input [B], ln(sigma)/4 under EDM preconditioning.
            labels: class integers [B] or one-hot rows [B, label_dim]; None means no class.
            augment_labels: augmentation vectors [B, augment_dim]; None means no augmentation.
            key: turns dropout on; None is deterministic.
            with_features: return ``(F, features)``.

        Returns:
            F of x's shape, float32 or wider; features: ``len(channel_mult) + 1`` maps in the compute dtype.

        Raises:
            ValueError: an input of another shape than the configuration's.
        """
        config = self.config
        check_image_inputs("UNet", x, c_noise, (config.image_size, config.image_size, config.channels))
        embedding = self._embed(c_noise, labels, augment_labels)
        encoder, decoder = encoder_blocks(config), decoder_blocks(config)
        count = len(encoder) + len(decoder)
        keys = iter([None] * count if key is None else jax.random.split(key, count))

        h = self.enc[f"{self._full}_conv"](x.astype(config.compute_dtype()))
        skips, features = [h], []
        for i, block in enumerate(encoder):
            h = self.enc[block.name](h, embedding, key=next(keys))
            skips.append(h)
            if i + 1 == len(encoder) or encoder[i + 1].resample:
                features.append(h)
        for block in decoder:
            if h.shape[-1] != block.num_in:
                h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = self.dec[block.name](h, embedding, key=next(keys))
            if block.name.endswith("_in0"):
                features.append(h)
        h = self.dec[f"{self._full}_aux_norm"].silu(h)
        out = self.dec[f"{self._full}_aux_conv"](h).astype(statistics_dtype(x.dtype))
        return (out, tuple(features)) if with_features else out

    def _embed(self, c_noise: Array, labels: Array | None, augment_labels: Array | None) -> Array:
        config, dtype = self.config, statistics_dtype(c_noise.dtype)
        embedding = positional_embedding(c_noise.astype(dtype), config.model_channels)
        classes = one_hot_labels("UNet", labels, config.label_dim, c_noise.shape[0], dtype)
        if classes is not None:
            embedding = embedding + self.map_label(classes * math.sqrt(config.label_dim))
        if augment_labels is not None:
            if self.map_augment is None:
                raise fail("UNet", "augment_labels", "were given", "None: the network was built with augment_dim=0")
            check_shape("UNet", "augment_labels", augment_labels, (c_noise.shape[0], config.augment_dim))
            embedding = embedding + self.map_augment(augment_labels.astype(dtype))
        return jax.nn.silu(self.map_layer1(jax.nn.silu(self.map_layer0(embedding))))
