"""Size and arithmetic of a decoder, counted from its configuration."""

from typing import Any

from jaxdiv.checks import check_instance, check_integer
from jaxdiv.networks.decoder_config import DecoderConfig
from jaxdiv.networks.decoding import cache_dtype


def _attention_matrices(config: DecoderConfig) -> list[tuple[int, int]]:
    """(in, out) of every matrix of one attention layer."""
    width, heads, size = config.width, config.num_heads, config.head_size
    if config.attention == "standard":
        kv = config.kv_heads * size
        return [(width, heads * size), (width, kv), (width, kv), (heads * size, width)]
    query = heads * (size + config.rope_dim)
    queries = [(width, query)] if config.q_rank is None else [(width, config.q_rank), (config.q_rank, query)]
    rank = config.kv_rank
    keys = [(width, rank), (width, config.rope_dim), (rank, heads * size), (rank, heads * size)]
    return [*queries, *keys, (heads * size, width)]


def _feed_forward_matrices(config: DecoderConfig, num_routed: int) -> list[tuple[int, int]]:
    """(in, out) of every matrix of one feed-forward part, with so many routed experts."""
    width = config.width

    def swiglu(hidden: int) -> list[tuple[int, int]]:
        return [(width, hidden), (width, hidden), (hidden, width)]

    if config.feed_forward == "moe":
        return [(width, config.num_experts), *(num_routed + config.num_shared_experts) * swiglu(config.expert_hidden)]
    return (config.hourglass_depth if config.feed_forward == "hourglass" else 1) * swiglu(config.hidden)


def _entries(matrices: list[tuple[int, int]]) -> int:
    return sum(num_in * num_out for num_in, num_out in matrices)


def count_parameters(config: DecoderConfig, *, active: bool = False) -> int:
    """Parameters of a decoder; with ``active`` only those that one token uses, so ``experts_per_token`` routed experts.

    Router biases are no parameters.

    Raises:
        ValueError: config is not a `DecoderConfig`.

    Example:
        >>> round(count_parameters(DecoderConfig()) / 1e6, 2)
        14.36
    """
    check_instance("count_parameters", "config", config, DecoderConfig)
    width = config.width
    norms = 1 + (config.hourglass_depth if config.feed_forward == "hourglass" else 1)
    scales = norms * width + (2 * config.head_size if config.qk_norm else 0)
    if config.attention == "mla":
        scales += config.kv_rank + (config.q_rank or 0)
    routed = config.experts_per_token if active else config.num_experts
    layer = scales + _entries(_attention_matrices(config)) + _entries(_feed_forward_matrices(config, routed))
    tables = 1 if config.tie_embeddings else 2
    return config.num_layers * layer + tables * config.vocab_size * width + width


def count_decoder_flops(config: DecoderConfig, length: int) -> int:
    """Floating-point operations per token of one forward pass over ``length`` tokens, two for each multiply-add.

    Counts the matrices that a token meets (of a mixture, the experts it goes to) and the two products of attention over
    the (length + 1) / 2 tokens that a token sees on average, itself included; latent attention as in training (naive).
    Normalizations, rotations, softmax and the embedding's rows are left out. What an implementation computes and masks,
    or pads, is not counted. A backward pass costs twice this.

    Args:
        config: of the decoder.
        length: tokens per sequence, at least 1.

    Returns:
        FLOP per token, a whole number.

    Raises:
        ValueError: a length below 1; config is not a `DecoderConfig`.

    Example:
        >>> round(count_decoder_flops(DecoderConfig(), 512) / 1e6, 1)
        31.7
    """
    check_instance("count_decoder_flops", "config", config, DecoderConfig)
    check_integer("count_decoder_flops", "length", length, 1)
    layer = _entries(_attention_matrices(config)) + _entries(_feed_forward_matrices(config, config.experts_per_token))
    key_size = config.head_size + (config.rope_dim if config.attention == "mla" else 0)
    # 2 FLOP times (length + 1) / 2 tokens.
    attention = config.num_heads * (key_size + config.head_size) * (length + 1)
    return config.num_layers * (2 * layer + attention) + 2 * config.vocab_size * config.width


def cache_bytes_per_token(config: DecoderConfig, dtype: Any | None = None) -> int:
    """Bytes that each token takes in a cache from `init_cache`.

    Per layer, ``2 kv_heads head_dim`` entries for multi-head and grouped-query attention, ``kv_rank + rope_dim`` for
    latent attention.

    Args:
        config: of the decoder.
        dtype: of the entries; None is the compute dtype.

    Raises:
        ValueError: a dtype that is not floating; config is not a `DecoderConfig`.

    Example:
        >>> cache_bytes_per_token(DecoderConfig(), "bfloat16"), cache_bytes_per_token(
        ...     DecoderConfig(attention="mla"), "bfloat16"
        ... )
        (12288, 3584)
    """
    check_instance("cache_bytes_per_token", "config", config, DecoderConfig)
    latent = config.kv_rank + config.rope_dim
    entries = latent if config.attention == "mla" else 2 * config.kv_heads * config.head_size
    return config.num_layers * entries * cache_dtype("cache_bytes_per_token", config, dtype).itemsize
