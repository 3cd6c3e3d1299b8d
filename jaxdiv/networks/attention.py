"""Causal attention over a whole sequence and over a cache, and the layer with a key and a value per head or group.

Ainslie et al.: GQA: training generalized multi-query transformer models from multi-head checkpoints, arXiv 2305.13245:
query head h reads the keys and values of group ``h // (heads / groups)``. One group per head is multi-head attention.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv.networks.decoder_config import DecoderConfig
from jaxdiv.networks.decoder_layers import Projection, RMSNorm
from jaxdiv.networks.layers import statistics_dtype
from jaxdiv.networks.rotary import Rotation, rotate
from jaxdiv.numerics import cuda_capability
from jaxdiv.typing import Array


def flash_fits(q: Array) -> bool:
    """A GPU with cuDNN's fused attention for queries [B, T, H, D]: a recent NVIDIA, half precision, D <= 128."""
    capability, size = cuda_capability(), q.shape[-1]
    return capability is not None and capability >= 8.0 and q.dtype.itemsize == 2 and size <= 128 and size % 8 == 0


def _flash(q: Array, k: Array, v: Array, scale: float) -> Array:
    """The fused kernel wants values as long as keys: zeros behind them make zeros behind the output."""
    size = v.shape[-1]
    v = jnp.pad(v, [(0, 0)] * 3 + [(0, k.shape[-1] - size)])
    return jax.nn.dot_product_attention(q, k, v, scale=scale, is_causal=True, implementation="cudnn")[..., :size]


def _causal_logits(q: Array, k: Array, scale: float) -> Array:
    """Logits scale q k^T [B, G, H/G, T, T] in float32 at least, -inf where the key comes after the query."""
    batch, length, heads, size = q.shape
    groups = k.shape[2]
    q = q.reshape(batch, length, groups, heads // groups, size)
    logits = scale * jnp.einsum("btgrd,bsgd->bgrts", q, k, preferred_element_type=statistics_dtype(q.dtype))
    return jnp.where(jnp.tri(length, dtype=bool), logits, -jnp.inf)


def causal_attention(q: Array, k: Array, v: Array, *, scale: float, kernel: str) -> Array:
    """softmax(scale q k^T) v, each token over itself and those before it.

    Args:
        q: queries [B, T, H, D].
        k: keys [B, T, G, D]; G divides H.
        v: values [B, T, G, Dv], Dv <= D.
        scale: factor of the logits.
        kernel: as ``DecoderConfig.attention_kernel``.

    Returns:
        [B, T, H, Dv] in the dtype of v; logits and softmax are float32 at least.
    """
    if kernel == "cudnn" or (kernel == "auto" and flash_fits(q)):
        return _flash(q, k, v, scale)
    weights = jax.nn.softmax(_causal_logits(q, k, scale), axis=-1).astype(v.dtype)
    return jnp.einsum("bgrts,bsgd->btgrd", weights, v).reshape(*q.shape[:3], v.shape[-1])


def max_logit(q: Array, k: Array, *, scale: float) -> Array:
    """The largest logit of each head [H] over batch and allowed pairs; no gradient flows.

    Where `causal_attention` is einsum, its logits are these and the compiler computes them once. Beside cuDNN's
    kernel, which does not give them out, this is one more product of queries and keys.
    """
    logits = _causal_logits(jax.lax.stop_gradient(q), jax.lax.stop_gradient(k), scale)
    return logits.max(axis=(0, 3, 4)).reshape(-1)


def cached_attention(
    queries: Sequence[Array],
    keys: Sequence[Array],
    values: Array,
    new_keys: Sequence[Array],
    new_values: Array,
    length: Array,
    *,
    scale: float,
) -> Array:
    """Attention of T new tokens over the ``length`` tokens of a cache and, causally, over themselves.

    The cache is read and not written: the logits over old and new tokens are computed apart and normalized together,
    so that no copy of the cache is made. Queries and keys may come in parts whose logits add up.

    Args:
        queries: parts [B, G, R, T, D_i]; group g is shared by R query heads.
        keys: the cache's parts [B, G, S, D_i].
        values: [B, G, S, Dv]; those of slots from ``length`` on count 0 times, and must be finite.
        new_keys: parts [B, G, T, D_i].
        new_values: [B, G, T, Dv].
        length: tokens in the cache, an integer scalar, traced or not.
        scale: factor of the logits.

    Returns:
        [B, G, R, T, Dv] in the dtype of the queries; logits and softmax are float32 at least.
    """
    dtype = queries[0].dtype
    num_new, num_slots = queries[0].shape[3], values.shape[2]

    def logits(parts: Sequence[Array], allowed: Array) -> Array:
        pairs = zip(queries, parts, strict=True)
        products = (
            jnp.einsum("bgrtd,bgsd->bgrts", q, k.astype(dtype), preferred_element_type=statistics_dtype(dtype))
            for q, k in pairs
        )
        return jnp.where(allowed, scale * sum(products), -jnp.inf)

    old = logits(keys, jnp.arange(num_slots) < length)
    new = logits(new_keys, jnp.tri(num_new, dtype=bool))
    weights = jax.nn.softmax(jnp.concatenate([old, new], axis=-1), axis=-1).astype(dtype)
    old, new = weights[..., :num_slots], weights[..., num_slots:]
    out = jnp.einsum("bgrts,bgsd->bgrtd", old, values.astype(dtype))
    return out + jnp.einsum("bgrts,bgsd->bgrtd", new, new_values)


class StandardAttention(nnx.Module):
    """Multi-head or grouped-query attention of the normalized stream, with rotary positions.

    The cache holds the rotated keys and the values, [B, G, S, head_dim] each: per group contiguous in the tokens, as
    the batched products of `cached_attention` read them.
    """

    def __init__(self, config: DecoderConfig, *, stack: Sequence[int], rngs: nnx.Rngs):
        width, size = config.width, config.head_size
        self.config = config
        self.scale = 1 / math.sqrt(size)
        self.norm = RMSNorm(width, stack=stack)
        self.query = Projection(width, config.num_heads * size, stack=stack, rngs=rngs)
        self.key = Projection(width, config.kv_heads * size, stack=stack, rngs=rngs)
        self.value = Projection(width, config.kv_heads * size, stack=stack, rngs=rngs)
        out_scale = 1 / math.sqrt(2 * config.num_layers)
        self.output = Projection(config.num_heads * size, width, stack=stack, init_scale=out_scale, rngs=rngs)
        self.query_norm = RMSNorm(size, stack=stack) if config.qk_norm else None
        self.key_norm = RMSNorm(size, stack=stack) if config.qk_norm else None

    def _project(self, x: Array, rotation: Rotation) -> tuple[Array, Array, Array]:
        """Rotated queries [B, T, H, D], rotated keys [B, T, G, D] and values [B, T, G, D]."""
        x = self.norm(x)
        q, k, v = (p(x).reshape(*x.shape[:2], -1, self.config.head_size) for p in (self.query, self.key, self.value))
        if self.config.qk_norm:
            q, k = self.query_norm(q), self.key_norm(k)
        return rotate(q, rotation), rotate(k, rotation), v

    def __call__(self, x: Array, rotation: Rotation, *, with_max: bool) -> tuple[Array, Array | None]:
        """The layer's update of the stream [B, T, width] and, if asked for, each head's largest logit [H]."""
        q, k, v = self._project(x, rotation)
        out = causal_attention(q, k, v, scale=self.scale, kernel=self.config.attention_kernel)
        largest = max_logit(q, k, scale=self.scale) if with_max else None
        return self.output(out.reshape(*x.shape[:2], -1)), largest

    def decode(
        self, x: Array, rotation: Rotation, cached: dict[str, Array], length: Array
    ) -> tuple[Array, dict[str, Array]]:
        """The update for new tokens [B, T, width] behind a cache, and the entries that they add to it."""
        batch, num_new, _ = x.shape
        q, k, v = (y.swapaxes(1, 2) for y in self._project(x, rotation))
        q = q.reshape(batch, self.config.kv_heads, -1, num_new, self.config.head_size)
        out = cached_attention((q,), (cached["key"],), cached["value"], (k,), v, length, scale=self.scale)
        out = out.reshape(batch, -1, num_new, self.config.head_size).swapaxes(1, 2)
        return self.output(out.reshape(batch, num_new, -1)), {"key": k, "value": v}
