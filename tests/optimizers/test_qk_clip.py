"""QK-clip: the logits of a numpy attention after the clip are g times those before, for every kind of head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv.networks import Decoder, DecoderConfig, functional
from jaxdiv.optimizers import QK_RULES, clip_qk

RNG = np.random.default_rng(4)
LAYERS, WIDTH, HEADS, SIZE, ROPE = 2, 6, 4, 3, 2
S = np.array([[50.0, 150.0, 400.0, 100.0], [99.0, 101.0, 1e4, 3.0]])
G = np.minimum(1.0, 100.0 / S)


def kernel(columns):
    return {"kernel": jnp.asarray(RNG.standard_normal((LAYERS, WIDTH, columns)), jnp.float32)}


def logits(query, key, x, groups=HEADS):
    """[layer, head, token, token] of queries [layer, in, heads * size] and keys of as many groups."""
    q = np.einsum("tw,lwc->ltc", x, np.asarray(query, np.float64)).reshape(LAYERS, len(x), HEADS, -1)
    k = np.einsum("tw,lwc->ltc", x, np.asarray(key, np.float64)).reshape(LAYERS, len(x), groups, -1)
    return np.einsum("lthd,lshd->lhts", q, np.repeat(k, HEADS // groups, axis=2))


TOKENS = RNG.standard_normal((5, WIDTH))


def test_multi_head():
    params = {"query": kernel(HEADS * SIZE), "key": kernel(HEADS * SIZE), "value": kernel(HEADS * SIZE)}
    new, count = jax.jit(clip_qk)(params, S)
    before = logits(params["query"]["kernel"], params["key"]["kernel"], TOKENS)
    after = logits(new["query"]["kernel"], new["key"]["kernel"], TOKENS)
    np.testing.assert_allclose(after, G[..., None, None] * before, rtol=1e-5, atol=1e-6)
    assert int(count) == 4 and count.dtype == jnp.int32
    np.testing.assert_array_equal(new["value"]["kernel"], params["value"]["kernel"])
    ratio = new["query"]["kernel"] / params["query"]["kernel"]
    np.testing.assert_allclose(ratio[:, 0].reshape(LAYERS, HEADS, SIZE)[:, :, 0], np.sqrt(G), rtol=1e-5)
    np.testing.assert_allclose(new["key"]["kernel"] / params["key"]["kernel"], ratio, rtol=1e-5)


def test_grouped_queries():
    """A key shared by two heads takes what both allow, and no head is clipped further than its own logits ask."""
    params = {"query": kernel(HEADS * SIZE), "key": kernel(2 * SIZE)}
    new, _ = clip_qk(params, S, num_kv_heads=2)
    before = logits(params["query"]["kernel"], params["key"]["kernel"], TOKENS, groups=2)
    after = logits(new["query"]["kernel"], new["key"]["kernel"], TOKENS, groups=2)
    np.testing.assert_allclose(after, G[..., None, None] * before, rtol=1e-5, atol=1e-6)
    assert np.all(np.abs(new["key"]["kernel"]) <= np.abs(params["key"]["kernel"]) * (1 + 1e-6))


def test_keys_of_fewer_heads_ask_for_their_number():
    """Their columns happen to divide by the queries' heads, and half a head would be scaled by another's factor."""
    params = {"query": kernel(HEADS * 4), "key": kernel(2 * 4)}
    with pytest.raises(ValueError, match="^clip_qk: num_kv_heads is None, which makes query heads of .4. and key"):
        clip_qk(params, S)
    clip_qk(params, S, num_kv_heads=2)


def latent_logits(params, x):
    query = np.asarray(params["query"]["kernel"], np.float64).reshape(LAYERS, WIDTH, HEADS, SIZE + ROPE)
    plain, rotary = query[..., :SIZE].reshape(LAYERS, WIDTH, -1), query[..., SIZE:].reshape(LAYERS, WIDTH, -1)
    shared = np.tile(np.asarray(params["rope_key"]["kernel"], np.float64), (1, 1, HEADS))
    return logits(plain, params["key"]["kernel"], x) + logits(rotary, shared, x)


LATENT = ((r"(^|/)query/kernel$", (("query", SIZE), ("rotary", ROPE))), (r"(^|/)key/kernel$", "key"))


def test_latent_attention():
    params = {"query": kernel(HEADS * (SIZE + ROPE)), "key": kernel(HEADS * SIZE), "rope_key": kernel(ROPE)}
    new, count = clip_qk(params, S, rules=LATENT)
    np.testing.assert_allclose(
        latent_logits(new, TOKENS), G[..., None, None] * latent_logits(params, TOKENS), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(new["rope_key"]["kernel"], params["rope_key"]["kernel"])
    rotary = (new["query"]["kernel"] / params["query"]["kernel"])[:, 0].reshape(LAYERS, HEADS, -1)[..., -1]
    np.testing.assert_allclose(rotary, G, rtol=1e-5)
    assert int(count) == 4


def test_keys_and_values_in_one_kernel():
    params = {"query": kernel(HEADS * SIZE), "kv": kernel(HEADS * (SIZE + 2))}
    rules = (QK_RULES[0], ("kv", (("key", SIZE), ("keep", 2))))
    new, _ = clip_qk(params, S, rules=rules)
    ratio = (new["kv"]["kernel"] / params["kv"]["kernel"])[:, 0].reshape(LAYERS, HEADS, SIZE + 2)
    np.testing.assert_allclose(
        ratio[..., :SIZE], np.broadcast_to(np.sqrt(G)[..., None], (LAYERS, HEADS, SIZE)), rtol=1e-5
    )
    np.testing.assert_array_equal(ratio[..., SIZE:], 1.0)


def test_one_layer_and_biases():
    params = {"query": {"kernel": jnp.ones((WIDTH, 8)), "bias": jnp.ones(8)}, "key": {"kernel": jnp.ones((WIDTH, 8))}}
    rules = (("query/", "query"), ("key/", "key"))
    new, count = clip_qk(params, jnp.array([1.0, 400.0]), rules=rules)
    np.testing.assert_allclose(new["query"]["bias"], [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(new["query"]["kernel"][2], new["query"]["bias"])
    assert int(count) == 1


def test_nothing_to_clip_and_values_that_say_nothing():
    params = {"query": kernel(HEADS * SIZE), "key": kernel(HEADS * SIZE)}
    for top in (np.full((2, 4), 100.0), np.full((2, 4), np.nan), np.full((2, 4), np.inf), np.full((2, 4), -5.0)):
        new, count = clip_qk(params, top)
        np.testing.assert_array_equal(new["query"]["kernel"], params["query"]["kernel"])
        assert int(count) == 0
    _, count = clip_qk(params, S, tau=1.0)
    assert int(count) == 8


def test_dtypes_are_kept():
    params = {"query": kernel(HEADS * SIZE), "key": kernel(HEADS * SIZE)}
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    new, _ = clip_qk(half, S)
    exact, _ = clip_qk(jax.tree.map(lambda x: x.astype(jnp.float32), half), S)
    assert new["key"]["kernel"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(new["key"]["kernel"], exact["key"]["kernel"].astype(jnp.bfloat16))


PARAMS = {"query": kernel(HEADS * SIZE), "key": kernel(HEADS * SIZE)}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"max_logits": None}, "max_logits is None"),
        ({"max_logits": np.ones((2, 4), np.int32)}, "max_logits has dtype int32"),
        ({"max_logits": 5.0}, r"max_logits has shape \(\)"),
        ({"max_logits": np.zeros((2, 0))}, "max_logits has shape"),
        ({"max_logits": np.ones((3, 4))}, r"params of key/kernel has shape \(2, 6, 12\); expected leading axes \(3,\)"),
        ({"max_logits": np.ones((2, 5))}, "params of key/kernel has shape .* 5 heads"),
        ({"tau": 0.0}, "tau is 0.0"),
        ({"tau": "100"}, "tau is '100'"),
        ({"num_kv_heads": 3}, "num_kv_heads is 3; expected a divisor of 4 heads"),
        ({"num_kv_heads": 0}, "num_kv_heads is 0"),
        ({"num_kv_heads": 2.0}, "num_kv_heads is 2.0"),
        ({"rules": ()}, r"rules is \(\)"),
        ({"rules": "query"}, "rules is 'query'"),
        ({"rules": (("query", "value"),)}, "rules holds"),
        ({"rules": (("(", "query"),)}, "rules holds"),
        ({"rules": (("query", (("query", 0),)),)}, "rules holds"),
        ({"rules": (("query", (("query", 2), ("rotary", None))),)}, "rules holds"),
        ({"rules": (("query", None),)}, "rules holds"),
        ({"rules": (("nothing", "query"),)}, "rules holds 'nothing'; expected a regular expression that some path"),
        ({"rules": (("query", (("query", 2), ("rotary", 2))),)}, "params of query/kernel has shape .* 2 \\+ 2 columns"),
        ({"rules": (("query", "keep"),)}, "params of query/kernel has shape .* equally many heads"),
    ],
)
def test_malformed_calls(arguments, words):
    call = {"params": PARAMS, "max_logits": S} | arguments
    with pytest.raises(ValueError, match=f"^clip_qk: {words}"):
        clip_qk(call.pop("params"), call.pop("max_logits"), **call)


@pytest.mark.parametrize("kind", ["multi-head", "grouped", "latent", "latent queries"])
def test_a_decoders_logits_come_down_to_tau(kind):
    """What the decoder reports, its parameters and the rules fit each other: clipped heads end at tau, others stay."""
    fields, rules = dict(num_kv_heads=2 if kind == "grouped" else None), QK_RULES
    if kind.startswith("latent"):
        fields = dict(attention="mla", kv_rank=8, rope_dim=4, q_rank=8 if kind == "latent queries" else None)
        rules = ((r"(^|/)query/kernel$", (("query", 4), ("rotary", 4))), (r"(^|/)key/kernel$", "key"))
    config = DecoderConfig(
        vocab_size=16, width=16, num_layers=1, num_heads=4, hidden=16, max_length=12, dtype="float32", **fields
    )
    apply_fn, params = functional(Decoder(config, rngs=nnx.Rngs(0)))
    # As a training might that needs the clip.
    params = jax.tree.map_with_path(lambda path, x: 20.0 * x if "query" in jax.tree_util.keystr(path) else x, params)
    tokens = jax.random.randint(jax.random.key(1), (2, 12), 0, 16)
    before = apply_fn(params, tokens, with_info=True)[1].max_attention_logit
    tau = float(jnp.median(before))
    clipped, count = clip_qk(params, before, tau=tau, rules=rules, num_kv_heads=fields.get("num_kv_heads"))
    after = apply_fn(clipped, tokens, with_info=True)[1].max_attention_logit
    np.testing.assert_allclose(after, jnp.minimum(before, tau), rtol=1e-4)
    assert int(count) == 2
