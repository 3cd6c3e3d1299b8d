"""The decoder written again in float64 numpy: explicit loops over layers, heads, tokens and experts, no tricks.

Takes the parameters of `jaxdiv.networks.Decoder` as nested dicts and shares no code with it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv.networks import Decoder, DecoderConfig, functional, init_balance

SMALL = DecoderConfig(
    vocab_size=11,
    width=16,
    num_layers=2,
    num_heads=4,
    hidden=12,
    max_length=20,
    kv_rank=6,
    rope_dim=4,
    num_experts=6,
    experts_per_token=2,
    expert_hidden=8,
    routed_scale=1.7,
    rope_base=50.0,
    dtype="float32",
)
CASES = {
    "mha": {},
    "gqa": {"num_kv_heads": 2, "head_dim": 6, "tie_embeddings": True, "qk_norm": True},
    "mla": {"attention": "mla"},
    "mla_query": {"attention": "mla", "q_rank": 5, "head_dim": 6, "num_heads": 3},
    "hourglass": {"feed_forward": "hourglass", "hourglass_depth": 3, "num_kv_heads": 1},
    "moe": {"feed_forward": "moe"},
    "moe_mla": {"feed_forward": "moe", "attention": "mla", "num_shared_experts": 2, "expert_kernel": "ragged"},
    "moe_alone": {"feed_forward": "moe", "num_shared_experts": 0, "experts_per_token": 1, "num_kv_heads": 2},
}


OTHERS = ("mha", "mla", "moe", "moe_alone")
"""Cases that differ least from the rest: among the slow tests where every case is compiled."""


def slow(name):
    return pytest.param(name, marks=pytest.mark.slow)


def small(name, **changes):
    return dataclasses.replace(SMALL, **CASES[name], **changes)


def built(config, seed=0):
    """Function and random parameters: matrices larger than at first, scales of norms that are not one."""
    apply_fn, shapes = functional(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "scale":
            return jnp.asarray(1 + 0.3 * random.normal(size=leaf.shape), leaf.dtype)
        fan_in = leaf.shape[-1] if path[-1].key == "embedding" else leaf.shape[-2]
        return jnp.asarray(1.5 / np.sqrt(fan_in) * random.normal(size=leaf.shape), leaf.dtype)

    return apply_fn, jax.tree.map_with_path(draw, shapes)


def random_tokens(config, batch=2, length=7, seed=1):
    return jnp.asarray(np.random.default_rng(seed).integers(0, config.vocab_size, (batch, length)))


def random_balance(config):
    return jnp.asarray(0.3 * np.random.default_rng(5).normal(size=init_balance(config).shape), jnp.float32)


def rms(x, scale):
    return x / np.sqrt(np.mean(x**2) + 1e-6) * scale


def silu(x):
    return x / (1 + np.exp(-x))


def swiglu(x, parts):
    return (silu(x @ parts["gate"]["kernel"]) * (x @ parts["up"]["kernel"])) @ parts["down"]["kernel"]


def rotated(x, position, base):
    """Pairs (i, i + d/2) as complex numbers, turned by position * base^(-2i/d)."""
    half = len(x) // 2
    z = (x[:half] + 1j * x[half:]) * np.exp(1j * position * base ** (-np.arange(half) / half))
    return np.concatenate([z.real, z.imag])


def heads_of(x, size):
    """Row [H size] as a list of H rows."""
    return [x[i : i + size] for i in range(0, len(x), size)]


def attention_inputs(x, position, p, config):
    """Queries, keys and values of one token, one row per query head."""
    x = rms(x, p["norm"]["scale"])
    size = config.head_size
    if config.attention == "mla":
        c = rms(x @ p["query_down"]["kernel"], p["query_norm"]["scale"]) if config.q_rank else x
        latent = rms(x @ p["latent"]["kernel"], p["latent_norm"]["scale"])
        shared = rotated(x @ p["rope_key"]["kernel"], position, config.rope_base)
        queries = [
            np.concatenate([q[:size], rotated(q[size:], position, config.rope_base)])
            for q in heads_of(c @ p["query"]["kernel"], size + config.rope_dim)
        ]
        keys = [np.concatenate([k, shared]) for k in heads_of(latent @ p["key"]["kernel"], size)]
        return queries, keys, heads_of(latent @ p["value"]["kernel"], size)
    queries, keys, values = (heads_of(x @ p[name]["kernel"], size) for name in ("query", "key", "value"))
    if config.qk_norm:
        queries = [rms(q, p["query_norm"]["scale"]) for q in queries]
        keys = [rms(k, p["key_norm"]["scale"]) for k in keys]
    queries = [rotated(q, position, config.rope_base) for q in queries]
    keys = [rotated(k, position, config.rope_base) for k in keys]
    share = config.num_heads // config.kv_heads
    groups = [h // share for h in range(config.num_heads)]
    return queries, [keys[g] for g in groups], [values[g] for g in groups]


def attend(h, p, config):
    """The update of one sequence [T, width], and each head's largest logit."""
    inputs = [attention_inputs(row, t, p, config) for t, row in enumerate(h)]
    largest = np.full(config.num_heads, -np.inf)
    updates = []
    for t in range(len(h)):
        out = []
        for head in range(config.num_heads):
            query = inputs[t][0][head]
            logits = np.array([query @ inputs[s][1][head] for s in range(t + 1)]) / np.sqrt(len(query))
            largest[head] = max(largest[head], logits.max())
            weights = np.exp(logits - logits.max())
            weights /= weights.sum()
            out.append(sum(w * inputs[s][2][head] for s, w in enumerate(weights)))
        updates.append(np.concatenate(out) @ p["output"]["kernel"])
    return np.array(updates), largest


def mixture(x, p, config, balance):
    """One token's update by all the experts it goes to, and who they are."""
    x = rms(x, p["norm"]["scale"])
    scores = 1 / (1 + np.exp(-x @ p["router"]["kernel"]))
    chosen = np.argsort(-(scores + balance), kind="stable")[: config.experts_per_token]
    out = swiglu(x, p["shared"]) if config.num_shared_experts else 0.0
    for e in chosen:
        expert = {name: {"kernel": part["kernel"][e]} for name, part in p["experts"].items()}
        out = out + config.routed_scale * scores[e] / scores[chosen].sum() * swiglu(x, expert)
    return out, chosen


def feed_forward(h, p, config, balance):
    """One sequence [T, width] after the part, and how often each routed expert was chosen."""
    counts = np.zeros(config.num_routed)
    if config.feed_forward == "dense":
        return np.array([x + swiglu(rms(x, p["norm"]["scale"]), p["swiglu"]) for x in h]), counts
    if config.feed_forward == "hourglass":
        for i in range(config.hourglass_depth):
            block = layer_of(p["blocks"], i)
            h = np.array([x + swiglu(rms(x, block["norm"]["scale"]), block["swiglu"]) for x in h])
        return h, counts
    rows = []
    for x in h:
        update, chosen = mixture(x, p, config, balance)
        counts[chosen] += 1
        rows.append(x + update)
    return np.array(rows), counts


def layer_of(tree, i):
    if isinstance(tree, dict):
        return {name: layer_of(value, i) for name, value in tree.items()}
    return np.asarray(tree, np.float64)[i]


def forward(params, tokens, config, balance=None):
    """(logits [B, T, V], hidden [B, T, width], load [L, E], largest logit [L, H]) in float64."""
    table = np.asarray(params["embedding"], np.float64)
    head = table.T if config.tie_embeddings else np.asarray(params["head"]["kernel"], np.float64)
    balance = np.zeros((config.num_layers, config.num_routed)) if balance is None else np.asarray(balance, np.float64)
    counts = np.zeros((config.num_layers, config.num_routed))
    largest = np.full((config.num_layers, config.num_heads), -np.inf)
    hidden = []
    for sequence in np.asarray(tokens):
        h = np.sqrt(config.width) * table[sequence]
        for i in range(config.num_layers):
            layer = layer_of(params["layers"], i)
            update, logits = attend(h, layer["attention"], config)
            largest[i] = np.maximum(largest[i], logits)
            h, chosen = feed_forward(h + update, layer["feed_forward"], config, balance[i])
            counts[i] += chosen
        hidden.append([rms(row, np.asarray(params["norm"]["scale"], np.float64)) for row in h])
    hidden = np.array(hidden)
    return hidden @ head, hidden, counts / (np.size(tokens) * config.experts_per_token), largest
