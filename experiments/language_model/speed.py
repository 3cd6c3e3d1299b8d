"""What a decoder costs: model FLOPs utilisation, cache bytes per token, tokens per second when it decodes."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_range
from jaxdiv.networks import ApplyFn, DecoderConfig, cache_bytes_per_token, count_decoder_flops, init_cache
from jaxdiv.typing import Array, PRNGKey, PyTree

# Dense bfloat16 FLOP/s of one device, from the makers' data sheets, by a part of jax's name of the device.
_DATA_SHEETS = {
    "B200": 2250e12, "H200": 989.4e12, "H100": 989.4e12, "A100": 312e12, "L4": 121e12, "TPU v6": 918e12,
    "TPU v5p": 459e12, "TPU v5 lite": 197e12, "TPU v4": 275e12,
}  # fmt: skip
PREFILL_CHUNK = 128


class Peak(NamedTuple):
    """The rate that utilisation is a share of, for one device."""

    flops: float
    source: str


def peak_flops() -> Peak:
    """The data sheet's rate of this kind of device, or what a large matrix product reaches here."""
    kind = jax.devices()[0].device_kind
    for name, flops in _DATA_SHEETS.items():
        if name in kind:
            return Peak(flops, f"{kind}, data sheet, dense bfloat16")
    size = 1024
    product = jax.jit(lambda a, b: a @ b)
    a = jnp.ones((size, size))
    seconds = median_seconds(lambda: product(a, a), repeats=5)
    return Peak(2 * size**3 / seconds, f"{kind}, measured float32 product of {size} x {size}")


def median_seconds(call: Callable[[], Any], *, repeats: int) -> float:
    """The median time of a call whose result is waited for, after one that is not counted."""
    jax.block_until_ready(call())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def utilisation(config: DecoderConfig, *, length: int, tokens_per_second: float, peak: Peak, num_devices: int) -> float:
    """Model FLOPs of training (three forward passes, from the configuration) over what the devices could do."""
    return 3 * count_decoder_flops(config, length) * tokens_per_second / (peak.flops * num_devices)


def cache_size(config: DecoderConfig, *, dtype: Any) -> dict[str, float]:
    """Bytes of cache per token by the formula, and measured as what more positions add to the arrays."""

    def nbytes(length: int) -> int:
        return sum(leaf.nbytes for leaf in jax.tree.leaves(init_cache(config, batch=2, length=length, dtype=dtype)))

    measured = (nbytes(config.max_length) - nbytes(1)) / (2 * (config.max_length - 1))
    return {"cache_bytes": cache_bytes_per_token(config, dtype), "cache_bytes_measured": measured}


def decode_speed(
    apply_fn: ApplyFn,
    params: PyTree,
    config: DecoderConfig,
    *,
    batch: int,
    context: int,
    num_tokens: int = 16,
    repeats: int = 3,
    balance: PyTree = None,
) -> float:
    """Tokens per second of sampling, all of the batch counted, with a cache of ``context`` positions.

    The cache is filled with random tokens first, but for the last positions, where all that is timed happens: sequences
    that are not alike go to experts that are not alike.
    """
    timed = num_tokens * (repeats + 1)
    check_range("decode_speed", "context", context, timed + 1, config.max_length)
    start = context - timed
    chunk = min(start, PREFILL_CHUNK)
    tokens = jax.random.randint(jax.random.key(0), (batch, chunk), 0, config.vocab_size)
    forward = jax.jit(
        lambda params, tokens, cache: apply_fn(params, tokens, cache=cache, balance=balance)[1], donate_argnums=2
    )
    cache = init_cache(config, batch=batch, length=context)
    for _ in range(start // chunk):
        cache = forward(params, tokens, cache)

    @partial(jax.jit, donate_argnums=2)
    def run(params: PyTree, token: Array, cache: PyTree) -> tuple[Array, PyTree]:
        def one(carry: tuple[Array, PyTree], key: PRNGKey) -> tuple[tuple[Array, PyTree], None]:
            logits, cache = apply_fn(params, carry[0], cache=carry[1], balance=balance)
            return (jax.random.categorical(key, logits), cache), None

        return jax.lax.scan(one, (token, cache), jax.random.split(jax.random.key(1), num_tokens))[0]

    token, times = tokens[:, :1], []
    for _ in range(repeats + 1):
        begin = time.perf_counter()
        token, cache = jax.block_until_ready(run(params, token, cache))
        times.append(time.perf_counter() - begin)
    return batch * num_tokens / statistics.median(times[1:])
