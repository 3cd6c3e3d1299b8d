"""Decoding: the cache of keys and values, and sampling token by token.

A decoder with multi-head or grouped-query attention caches keys and values; one with latent attention caches only the
normalized latent of each token and its rotary key (`LatentAttention`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_choice, check_instance, check_integer, check_real, check_shape, fail, integer_array
from jaxdiv.networks.decoder_config import DecoderConfig
from jaxdiv.networks.functional import ApplyFn
from jaxdiv.typing import Array, PRNGKey, PyTree


class DecoderCache(NamedTuple):
    """What a decoder keeps of the tokens it has seen.

    Attributes:
        entries: per name an array [L, B, ..., S, size] with S slots for tokens: ``key`` and ``value`` [L, B, G, S,
            head_dim], or ``latent`` [L, B, S, kv_rank] and ``rope_key`` [L, B, S, rope_dim].
        length: number of slots in use, an int32 scalar; the others hold nothing that is looked at.
    """

    entries: dict[str, Array]
    length: Array

    @property
    def num_slots(self) -> int:
        """Tokens that there is room for."""
        return next(iter(self.entries.values())).shape[-2]

    def append(self, new: dict[str, Array]) -> "DecoderCache":
        """With T tokens written behind the last: entries [L, B, ..., T, size]."""
        num_new = next(iter(new.values())).shape[-2]
        entries = {
            name: jax.lax.dynamic_update_slice_in_dim(old, new[name].astype(old.dtype), self.length, axis=old.ndim - 2)
            for name, old in self.entries.items()
        }
        return DecoderCache(entries, self.length + num_new)


def _entry_shapes(config: DecoderConfig, batch: int, length: int) -> dict[str, tuple[int, ...]]:
    if config.attention == "mla":
        sizes = {"latent": config.kv_rank, "rope_key": config.rope_dim}
        return {name: (config.num_layers, batch, length, size) for name, size in sizes.items()}
    shape = (config.num_layers, batch, config.kv_heads, length, config.head_size)
    return {"key": shape, "value": shape}


def init_cache(
    config: DecoderConfig, *, batch: int, length: int | None = None, dtype: Any | None = None
) -> DecoderCache:
    """An empty cache for ``batch`` sequences of up to ``length`` tokens.

    Args:
        config: of the decoder.
        batch: number of sequences, which have the same number of tokens at any time.
        length: slots for tokens; None is the configuration's max_length.
        dtype: of the entries; None is the compute dtype.

    Returns:
        A `DecoderCache` of ``batch * length * cache_bytes_per_token(config, dtype)`` bytes, beside its counter.

    Raises:
        ValueError: a batch or length below 1, a length above max_length, a dtype that is not floating.

    Example:
        >>> config = DecoderConfig(width=64, num_layers=2, num_heads=4, max_length=32)
        >>> init_cache(config, batch=3, length=10).entries["key"].shape
        (2, 3, 4, 10, 16)
    """
    check_instance("init_cache", "config", config, DecoderConfig)
    check_integer("init_cache", "batch", batch, 1)
    length = config.max_length if length is None else length
    check_integer("init_cache", "length", length, 1, config.max_length)
    dtype = cache_dtype("init_cache", config, dtype)
    shapes = _entry_shapes(config, batch, length)
    return DecoderCache({name: jnp.zeros(shape, dtype) for name, shape in shapes.items()}, jnp.zeros((), jnp.int32))


def cache_dtype(function: str, config: DecoderConfig, dtype: Any | None) -> jnp.dtype:
    """The dtype of a cache's entries, settled."""
    if dtype is None:
        return config.compute_dtype()
    try:
        name = jnp.dtype(dtype).name
    except TypeError as error:
        raise fail(function, "dtype", f"is {dtype!r}", "a floating dtype") from error
    check_choice(function, "dtype", name, ("float16", "bfloat16", "float32", "float64"))
    return jnp.dtype(dtype)


def check_cache(function: str, cache: Any, config: DecoderConfig, shape: tuple[int, int]) -> None:
    """The cache is one of this configuration for as many sequences as ``shape`` [B, T] has, with room for T tokens."""
    check_instance(function, "cache", cache, DecoderCache)
    shapes = _entry_shapes(config, shape[0], None)
    if set(shapes) != set(cache.entries):
        raise fail(function, "cache", f"has entries {sorted(cache.entries)}", f"{sorted(shapes)}")
    for name, expected in shapes.items():
        check_shape(function, f"cache.entries[{name!r}]", cache.entries[name], expected)
    if shape[1] > cache.num_slots:
        raise fail(function, "tokens", f"has length {shape[1]}", f"at most the cache's {cache.num_slots} slots")


def _sample(key: PRNGKey, logits: Array, temperature: float, top_k: int | None) -> Array:
    """One token [B] per row of logits [B, V]."""
    if temperature == 0:
        return logits.argmax(axis=-1)
    if top_k is None:
        return jax.random.categorical(key, logits / temperature)
    values, tokens = jax.lax.top_k(logits, top_k)
    choice = jax.random.categorical(key, values / temperature)
    return jnp.take_along_axis(tokens, choice[:, None], axis=-1)[:, 0]


def generate(
    apply_fn: ApplyFn,
    params: PyTree,
    prompt: Array,
    *,
    config: DecoderConfig,
    num_tokens: int,
    key: PRNGKey,
    temperature: float = 1.0,
    top_k: int | None = None,
    balance: Array | None = None,
) -> Array:
    """Samples a continuation of each prompt: the prompt at once, then one token at a time from the cache.

    Each token is drawn from softmax(logits / temperature), cut to the ``top_k`` most probable ones; temperature 0 takes
    the most probable. One scan, to be jitted by the caller with everything but arrays static.

    Args:
        apply_fn: of the `Decoder`, as `functional` gives it.
        params: its parameters.
        prompt: integers [B, P], P >= 1: prompts of one length.
        config: its configuration.
        num_tokens: tokens to add, at least 1.
        key: a typed PRNG key.
        temperature: a Python number >= 0.
        top_k: tokens to choose among, 1 to vocab_size; None is all.
        balance: router biases as the decoder takes them.

    Returns:
        int32 [B, P + num_tokens], the prompt and what follows it. No gradient.

    Raises:
        ValueError: a prompt that is empty or not integers [B, P]; P + num_tokens above max_length; num_tokens,
            temperature or top_k out of range; a key that is not a typed one.

    Example:
        >>> from flax import nnx
        >>> from jaxdiv.networks import Decoder, functional
        >>> config = DecoderConfig(vocab_size=5, width=8, num_layers=1, num_heads=2, hidden=16)
        >>> apply_fn, params = functional(Decoder(config, rngs=nnx.Rngs(0)))
        >>> generate(apply_fn, params, jnp.array([[1, 2]]), config=config, num_tokens=3, key=jax.random.key(0)).shape
        (1, 5)
    """
    check_instance("generate", "config", config, DecoderConfig)
    prompt = integer_array("generate", "prompt", prompt).astype(jnp.int32)
    check_shape("generate", "prompt", prompt, (None, None))
    check_integer("generate", "num_tokens", num_tokens, 1)
    batch, start = prompt.shape
    if not start or not batch:
        raise fail("generate", "prompt", f"has shape {prompt.shape}", "at least one sequence of one token")
    if start + num_tokens > config.max_length:
        expected = f"at most {config.max_length - start}: max_length {config.max_length} less the prompt's {start}"
        raise fail("generate", "num_tokens", f"is {num_tokens}", expected)
    check_real("generate", "temperature", temperature, 0.0, float("inf"), open_high=True)
    if top_k is not None:
        check_integer("generate", "top_k", top_k, 1, config.vocab_size)
    if not jnp.issubdtype(jnp.result_type(key), jax.dtypes.prng_key):
        raise fail("generate", "key", f"has dtype {jnp.result_type(key)}", "a typed key, as jax.random.key makes it")

    def advance(tokens, cache, key):
        logits, cache = apply_fn(params, tokens, cache=cache, balance=balance)
        return _sample(key, logits[:, -1], temperature, top_k).astype(jnp.int32), cache

    keys = jax.random.split(key, num_tokens)
    # The last token is drawn and not read, so it needs no slot.
    cache = init_cache(config, batch=batch, length=start + num_tokens - 1)
    first, cache = advance(prompt, cache, keys[0])

    def step(carry, key):
        token, cache = advance(carry[0][:, None], carry[1], key)
        return (token, cache), token

    _, rest = jax.lax.scan(step, (first, cache), keys[1:])
    return jnp.concatenate([prompt, first[:, None], rest.T], axis=1)
