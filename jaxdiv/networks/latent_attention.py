"""Multi-head latent attention: keys and values of all heads are made from one small latent per token.

DeepSeek-AI: DeepSeek-V2: a strong, economical, and efficient mixture-of-experts language model, arXiv 2405.04434,
section 2.1. With c = RMS(W_c x) [r], per head h

    k_h = [K_h c, RoPE(W_k x)],  v_h = V_h c,  q_h = [a_h, RoPE(b_h)],  (a_h, b_h) = Q_h RMS(W_q x),

the rotary key being one for all heads, and softmax((d_nope + d_rope)^(-1/2) q_h . k_h). In training the keys and values
are written out (naive). In decoding a_h . K_h c = (K_h^T a_h) . c and sum_t p_t V_h c_t = V_h sum_t p_t c_t, so
attention runs on the latents themselves (absorbed): the cache holds c and the rotary key, r + d_rope entries per token
and layer in place of multi-head attention's 2 H d.
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx

from jaxdiv.networks.attention import cached_attention, causal_attention, max_logit
from jaxdiv.networks.decoder_config import DecoderConfig
from jaxdiv.networks.decoder_layers import Projection, RMSNorm
from jaxdiv.networks.rotary import Rotation, rotate
from jaxdiv.typing import Array


class LatentAttention(nnx.Module):
    """Latent attention of the normalized stream; a head's ``head_dim`` is both d_nope and the size of its values.

    The columns of the query's last kernel are, head by head, the plain part and then the rotary part.
    """

    def __init__(self, config: DecoderConfig, *, stack: Sequence[int], rngs: nnx.Rngs):
        width, heads, size, rank = config.width, config.num_heads, config.head_size, config.kv_rank
        self.config = config
        self.scale = 1 / math.sqrt(size + config.rope_dim)
        self.norm = RMSNorm(width, stack=stack)
        query_in = width if config.q_rank is None else config.q_rank
        self.query_down = None if config.q_rank is None else Projection(width, query_in, stack=stack, rngs=rngs)
        self.query_norm = None if config.q_rank is None else RMSNorm(query_in, stack=stack)
        self.query = Projection(query_in, heads * (size + config.rope_dim), stack=stack, rngs=rngs)
        self.latent = Projection(width, rank, stack=stack, rngs=rngs)
        self.latent_norm = RMSNorm(rank, stack=stack)
        self.rope_key = Projection(width, config.rope_dim, stack=stack, rngs=rngs)
        self.key = Projection(rank, heads * size, stack=stack, rngs=rngs)
        self.value = Projection(rank, heads * size, stack=stack, rngs=rngs)
        out_scale = 1 / math.sqrt(2 * config.num_layers)
        self.output = Projection(heads * size, width, stack=stack, init_scale=out_scale, rngs=rngs)

    def _project(self, x: Array, rotation: Rotation) -> tuple[Array, Array, Array, Array]:
        """Queries [B, T, H, d_nope] and [B, T, H, d_rope], latents [B, T, r], rotary keys [B, T, 1, d_rope]."""
        x = self.norm(x)
        c = x if self.query_down is None else self.query_norm(self.query_down(x))
        q = self.query(c).reshape(*x.shape[:2], self.config.num_heads, -1)
        plain, rotary = jnp.split(q, [self.config.head_size], axis=-1)
        rope_key = self.rope_key(x)[:, :, None, :]
        return plain, rotate(rotary, rotation), self.latent_norm(self.latent(x)), rotate(rope_key, rotation)

    def __call__(self, x: Array, rotation: Rotation, *, with_max: bool) -> tuple[Array, Array | None]:
        """The layer's update of the stream [B, T, width] and, if asked for, each head's largest logit [H]; naive."""
        plain, rotary, latent, rope_key = self._project(x, rotation)
        shape = plain.shape
        rope_key = jnp.broadcast_to(rope_key, rotary.shape)
        q = jnp.concatenate([plain, rotary], axis=-1)
        k = jnp.concatenate([self.key(latent).reshape(shape), rope_key], axis=-1)
        v = self.value(latent).reshape(shape)
        out = causal_attention(q, k, v, scale=self.scale, kernel=self.config.attention_kernel)
        largest = max_logit(q, k, scale=self.scale) if with_max else None
        return self.output(out.reshape(*x.shape[:2], -1)), largest

    def decode(
        self, x: Array, rotation: Rotation, cached: dict[str, Array], length: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The update for new tokens [B, T, width] behind a cache, and the entries that they add to it; absorbed."""
        plain, rotary, latent, rope_key = self._project(x, rotation)
        per_head = (self.config.kv_rank, self.config.num_heads, self.config.head_size)
        key, value = (p.matrix(x.dtype).reshape(per_head) for p in (self.key, self.value))
        # One group of keys, the latents, is shared by all heads.
        queries = (jnp.einsum("bthd,rhd->bhtr", plain, key)[:, None], rotary.swapaxes(1, 2)[:, None])
        rope_key = rope_key[:, :, 0]
        out = cached_attention(
            queries,
            (cached["latent"][:, None], cached["rope_key"][:, None]),
            cached["latent"][:, None],
            (latent[:, None], rope_key[:, None]),
            latent[:, None],
            length,
            scale=self.scale,
        )
        out = jnp.einsum("bhtr,rhd->bthd", out[:, 0], value)
        return self.output(out.reshape(*x.shape[:2], -1)), {"latent": latent, "rope_key": rope_key}
