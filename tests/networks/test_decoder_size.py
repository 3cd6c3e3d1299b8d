import dataclasses
import math

import jax
import pytest
from flax import nnx

from jaxdiv.networks import (
    Decoder,
    DecoderConfig,
    cache_bytes_per_token,
    count_decoder_flops,
    count_parameters,
    functional,
)
from tests.networks.decoder_oracle import CASES, SMALL, small


def traced_flops(jaxpr):
    """Twice the multiply-adds of every product in a traced program, loops counted as often as they run."""
    flops = 0
    for eqn in jaxpr.eqns:
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        if eqn.primitive.name == "dot_general":
            contracting = eqn.params["dimension_numbers"][0][0]
            depth = math.prod(eqn.invars[0].aval.shape[axis] for axis in contracting)
            flops += 2 * depth * eqn.outvars[0].aval.size
        elif eqn.primitive.name == "ragged_dot_general":
            flops += 2 * eqn.invars[0].aval.shape[1] * eqn.outvars[0].aval.size
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                flops += times * traced_flops(inner)
    return flops


@pytest.mark.parametrize("name", CASES)
def test_counts_equal_what_the_decoder_holds_and_traces(name):
    config = dataclasses.replace(small(name), expert_kernel="ragged")
    apply_fn, params = functional(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count_parameters(config)
    length = 9
    tokens = jax.ShapeDtypeStruct((1, length), "int32")
    traced = traced_flops(jax.make_jaxpr(apply_fn)(params, tokens).jaxpr)
    # einsum computes all pairs of tokens, of which the count takes those that are allowed.
    sizes = 2 * config.head_size + (config.rope_dim if config.attention == "mla" else 0)
    masked = config.num_layers * config.num_heads * 2 * sizes * length * (length - 1) // 2
    assert traced == length * count_decoder_flops(config, length) + masked


def test_by_hand():
    """Width 4, one layer of 2 heads of 2, hidden 3, 5 tokens; then the same with latents or experts."""
    config = DecoderConfig(vocab_size=5, width=4, num_layers=1, num_heads=2, hidden=3, kv_rank=3, rope_dim=2)
    attention, swiglu, norms, tables = 4 * 16, 3 * 12, 3 * 4, 2 * 20
    assert count_parameters(config) == attention + swiglu + norms + tables
    # Logits and sums of 2 heads of 2 over (7 + 1) / 2 tokens.
    assert count_decoder_flops(config, 7) == 2 * (attention + swiglu + 20) + 2 * 2 * (4 * (2 + 2))
    tied = dataclasses.replace(config, tie_embeddings=True)
    assert count_parameters(config) - count_parameters(tied) == 20
    assert count_decoder_flops(tied, 7) == count_decoder_flops(config, 7)

    latent = dataclasses.replace(config, attention="mla")
    matrices = 4 * 8 + 4 * 3 + 4 * 2 + 3 * 4 + 3 * 4 + 16
    assert count_parameters(latent) == matrices + 3 + swiglu + norms + tables
    assert count_decoder_flops(latent, 7) == 2 * (matrices + swiglu + 20) + 2 * 2 * (4 * (4 + 2))

    mixture = dataclasses.replace(config, feed_forward="moe", num_experts=7, experts_per_token=2, expert_hidden=2)
    router, expert = 4 * 7, 3 * 8
    assert count_parameters(mixture) == attention + router + 8 * expert + norms + tables
    assert count_parameters(mixture, active=True) == attention + router + 3 * expert + norms + tables
    assert count_decoder_flops(mixture, 7) == 2 * (attention + router + 3 * expert + 20) + 64


def test_active_parameters_are_all_of_them_without_a_mixture():
    assert count_parameters(SMALL, active=True) == count_parameters(SMALL)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: count_parameters(3), "count_parameters: config is 3"),
        (lambda: count_decoder_flops(SMALL, 0), "count_decoder_flops: length is 0"),
        (lambda: count_decoder_flops(SMALL, 2.0), "count_decoder_flops: length is 2.0"),
        (lambda: count_decoder_flops(None, 2), "count_decoder_flops: config is None"),
        (lambda: cache_bytes_per_token(SMALL, "int8"), "cache_bytes_per_token: dtype is 'int8'"),
        (lambda: cache_bytes_per_token({}, "float32"), "cache_bytes_per_token: config is {}"),
    ],
    ids=["config", "zero", "float", "none", "integer", "dict"],
)
def test_malformed_calls_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
