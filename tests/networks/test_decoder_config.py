import jax.numpy as jnp
import pytest

from jaxdiv.networks import DecoderConfig


def test_settled_sizes():
    config = DecoderConfig()
    assert (config.head_size, config.kv_heads, config.num_routed) == (64, 6, 0)
    config = DecoderConfig(head_dim=48, num_kv_heads=2, feed_forward="moe", num_experts=12)
    assert (config.head_size, config.kv_heads, config.num_routed) == (48, 2, 12)


def test_compute_dtype():
    assert DecoderConfig().compute_dtype() == jnp.float32  # tests run on a CPU
    assert DecoderConfig(dtype="bfloat16").compute_dtype() == jnp.bfloat16


@pytest.mark.parametrize(
    "changes, message",
    [
        *[
            ({name: value}, name)
            for name in ("vocab_size", "width", "num_layers", "num_heads", "kv_rank", "rope_dim", "hidden")
            for value in (0, 2.5, True, None)
        ],
        *[
            ({name: value}, name)
            for name in ("hourglass_depth", "num_experts", "experts_per_token", "expert_hidden", "max_length")
            for value in (0, "8")
        ],
        *[({name: 0}, name) for name in ("num_kv_heads", "head_dim", "q_rank")],
        ({"num_shared_experts": -1}, "num_shared_experts"),
        ({"routed_scale": 0.0}, "routed_scale"),
        ({"routed_scale": float("nan")}, "routed_scale"),
        ({"rope_base": 1.0}, "rope_base"),
        ({"rope_base": float("inf")}, "rope_base"),
        *[({name: 1}, name) for name in ("qk_norm", "tie_embeddings", "remat", "unroll")],
        *[
            ({name: "other"}, name)
            for name in ("attention", "feed_forward", "attention_kernel", "expert_kernel", "dtype")
        ],
        ({"attention": ["mla"]}, "attention"),
        ({"dtype": "int32"}, "dtype"),
        ({"width": 100}, "width is 100; expected a multiple of num_heads 6"),
        ({"num_kv_heads": 4}, "num_kv_heads is 4; expected a divisor of num_heads 6"),
        ({"head_dim": 7}, "head_dim is 7; expected an even number"),
        ({"attention": "mla", "num_kv_heads": 6}, "num_kv_heads is 6; expected None"),
        ({"attention": "mla", "qk_norm": True}, "qk_norm is True; expected False"),
        ({"attention": "mla", "rope_dim": 5}, "rope_dim is 5; expected an even number"),
        ({"feed_forward": "hourglass"}, "hidden is 1024; expected an hourglass narrower than width 384"),
        ({"feed_forward": "moe", "experts_per_token": 9}, "experts_per_token is 9; expected at most num_experts 8"),
    ],
)
def test_malformed_configurations_are_refused(changes, message):
    with pytest.raises(ValueError, match=f"DecoderConfig: {message}"):
        DecoderConfig(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention": "mla", "head_dim": 7},
        {"width": 100, "head_dim": 32},
        {"feed_forward": "hourglass", "hidden": 128},
        {"feed_forward": "moe", "num_shared_experts": 0},
        {"experts_per_token": 9},
        {"num_kv_heads": 1, "qk_norm": True},
    ],
)
def test_what_looks_odd_and_is_allowed(changes):
    assert DecoderConfig(**changes) != DecoderConfig()
