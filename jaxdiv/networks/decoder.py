"""A decoder of tokens: embedding, layers scanned over their stacked parameters, output head."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv.checks import check_shape, fail, floating_array, integer_array
from jaxdiv.networks.attention import StandardAttention
from jaxdiv.networks.decoder_config import DecoderConfig
from jaxdiv.networks.decoder_layers import Projection, RMSNorm, truncated_normal
from jaxdiv.networks.decoding import DecoderCache, check_cache
from jaxdiv.networks.experts import ExpertFeedForward
from jaxdiv.networks.feed_forward import DenseFeedForward, HourglassFeedForward
from jaxdiv.networks.latent_attention import LatentAttention
from jaxdiv.networks.layers import statistics_dtype
from jaxdiv.networks.rotary import Rotation, rotation_at
from jaxdiv.typing import Array


class DecoderInfo(NamedTuple):
    """What a forward pass saw inside, without gradient.

    Attributes:
        load: [L, E], the fraction of a layer's token-slots (tokens times experts per token) that went to each routed
            expert; E is 0 without a mixture.
        max_attention_logit: [L, H], each head's largest softmax input over batch and allowed pairs.
    """

    load: Array
    max_attention_logit: Array


_ATTENTION = {"standard": StandardAttention, "mla": LatentAttention}
_FEED_FORWARD = {"dense": DenseFeedForward, "hourglass": HourglassFeedForward, "moe": ExpertFeedForward}


class DecoderLayer(nnx.Module):
    """Adds attention of the normalized stream, then a feed-forward part; each holds its own norm."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        stack = (config.num_layers,)
        self.attention = _ATTENTION[config.attention](config, stack=stack, rngs=rngs)
        self.feed_forward = _FEED_FORWARD[config.feed_forward](config, stack=stack, rngs=rngs)

    def __call__(
        self, x: Array, rotation: Rotation, balance: Array | None, *, with_info: bool
    ) -> tuple[Array, DecoderInfo | None]:
        """The stream after the layer and, if asked for, the layer's row of a `DecoderInfo`."""
        update, largest = self.attention(x, rotation, with_max=with_info)
        x, load = self.feed_forward(x + update, balance)
        return x, DecoderInfo(load, largest) if with_info else None

    def decode(
        self, x: Array, rotation: Rotation, balance: Array | None, cached: dict[str, Array], length: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The stream of new tokens after the layer, and what they add to its cache."""
        update, entries = self.attention.decode(x, rotation, cached, length)
        x, _ = self.feed_forward(x + update, balance)
        return x, entries


class Decoder(nnx.Module):
    """Next-token logits from tokens, by layers of causal attention and a feed-forward part.

    h = sqrt(width) embedding[tokens]; per layer h += attention(RMS(h)) and h += feed_forward(RMS(h)); logits =
    RMS(h) head. No biases, no dropout. The embedding's scale lets one initialisation serve as input and tied head.

    At first, matrices are truncated normal with variance 1/fan_in, those that write into the stream with another
    1/(2 L), the embedding has variance 1/width, scales of norms are 1.

    The parameters of the layers are stacked [L, ...]: ``layers/attention/{query,key,value,output}/kernel`` and so on,
    with ``embedding`` [vocab, width], ``norm/scale`` and, unless tied, ``head/kernel`` [width, vocab] beside them.

    Example:
        >>> from jaxdiv.networks import functional
        >>> config = DecoderConfig(vocab_size=5, width=8, num_layers=2, num_heads=2, hidden=16)
        >>> apply_fn, params = functional(Decoder(config, rngs=nnx.Rngs(0)))
        >>> apply_fn(params, jnp.array([[0, 3, 1]])).shape
        (1, 3, 5)
        >>> params["layers"]["attention"]["query"]["kernel"].shape
        (2, 8, 8)
    """

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        width = config.width
        self.config = config
        table = truncated_normal(rngs.params(), (config.vocab_size, width), 1 / math.sqrt(width))
        self.embedding = nnx.Param(table)
        self.layers = DecoderLayer(config, rngs=rngs)
        self.norm = RMSNorm(width)
        self.head = None if config.tie_embeddings else Projection(width, config.vocab_size, rngs=rngs)

    def __call__(
        self,
        tokens: Array,
        *,
        balance: Array | None = None,
        with_info: bool = False,
        only_hidden: bool = False,
        cache: DecoderCache | None = None,
    ) -> Array | tuple[Array, DecoderInfo] | tuple[Array, DecoderCache]:
        """Logits of the token after each one, from it and those before it.

        Args:
            tokens: integers [B, T], 1 <= T <= max_length. One outside the vocabulary makes its sequence NaN.
            balance: router biases [L, E] of a mixture of experts, as `init_balance` makes them; None is zeros. They
                take part in the choice of experts only, and get no gradient.
            with_info: return a `DecoderInfo` too. What of it is not used costs nothing under ``jit``.
            only_hidden: return the normalized stream before the head in place of logits.
            cache: state from `init_cache` or from an earlier call; the tokens follow those it holds, and the new state
                is returned. Where they do not fit into its slots the outputs are NaN: lengths are traced.

        Returns:
            Logits [B, T, vocab_size], float32 at least, or hidden states [B, T, width] in the compute dtype; with
            ``with_info`` or ``cache`` a pair of that and the information or the new cache.

        Raises:
            ValueError: tokens, balance or cache of another shape or dtype than the configuration's; ``with_info``
                together with ``cache``.
        """
        config = self.config
        tokens = integer_array("Decoder", "tokens", tokens)
        check_shape("Decoder", "tokens", tokens, (None, None))
        if not 1 <= tokens.shape[1] <= config.max_length:
            raise fail("Decoder", "tokens", f"has length {tokens.shape[1]}", f"1 to max_length {config.max_length}")
        balance = self._settle_balance(balance)
        if cache is None:
            h, info = self._forward(tokens, balance, with_info)
            out = self._finish(h, only_hidden)
            return (out, info) if with_info else out
        if with_info:
            raise fail("Decoder", "with_info", "is True with a cache", "one of the two")
        check_cache("Decoder", cache, config, tokens.shape)
        h, cache = self._decode(tokens, balance, cache)
        return self._finish(h, only_hidden), cache

    def _settle_balance(self, balance: Array | None) -> Array | None:
        config = self.config
        shape = (config.num_layers, config.num_routed)
        if balance is not None:
            balance = jax.lax.stop_gradient(floating_array("Decoder", "balance", balance))
            check_shape("Decoder", "balance", balance, shape)
        elif config.num_routed:
            balance = jnp.zeros(shape)
        return balance

    def _embed(self, tokens: Array) -> Array:
        rows = self.embedding[...].at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return (math.sqrt(self.config.width) * rows).astype(self.config.compute_dtype())

    def _rotation(self, positions: Array) -> Rotation:
        config = self.config
        dim = config.rope_dim if config.attention == "mla" else config.head_size
        return rotation_at(positions, dim, base=config.rope_base, dtype=statistics_dtype(config.compute_dtype()))

    def _forward(self, tokens: Array, balance: Array | None, with_info: bool) -> tuple[Array, DecoderInfo | None]:
        graphdef, layers = nnx.split(self.layers)
        rotation = self._rotation(jnp.arange(tokens.shape[1]))

        def layer(h, slices):
            params, biases = slices
            return nnx.merge(graphdef, params)(h, rotation, biases, with_info=with_info)

        if self.config.remat:
            # Inside a loop nothing can be merged with the forward pass, so nothing has to be kept from it.
            layer = jax.checkpoint(layer, prevent_cse=self.config.unroll)
        return self._scan(layer, self._embed(tokens), (nnx.to_pure_dict(layers), balance))

    def _decode(self, tokens: Array, balance: Array | None, cache: DecoderCache) -> tuple[Array, DecoderCache]:
        graphdef, layers = nnx.split(self.layers)
        rotation = self._rotation(cache.length + jnp.arange(tokens.shape[1]))

        def layer(h, slices):
            params, biases, cached = slices
            return nnx.merge(graphdef, params).decode(h, rotation, biases, cached, cache.length)

        h, entries = self._scan(layer, self._embed(tokens), (nnx.to_pure_dict(layers), balance, cache.entries))
        fits = cache.length + tokens.shape[1] <= cache.num_slots
        return jnp.where(fits, h, jnp.nan), cache.append(entries)

    def _scan(self, layer, h, slices):
        return jax.lax.scan(layer, h, slices, unroll=self.config.num_layers if self.config.unroll else 1)

    def _finish(self, h: Array, only_hidden: bool) -> Array:
        h = self.norm(h)
        if only_hidden:
            return h
        head = self.embedding[...].T.astype(h.dtype) if self.head is None else self.head.matrix(h.dtype)
        return jnp.matmul(h, head, preferred_element_type=statistics_dtype(h.dtype))
