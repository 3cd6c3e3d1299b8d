"""Run as a program with eight host devices: a small mixture trained on one device, and sharded over all of them."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdiv.networks import init_balance, update_balance
from tests.networks.decoder_oracle import built, small

STEPS = 5


def spec_of(path, experts):
    """Expert kernels [L, E, in, out] over the devices, if asked for; everything else on all of them."""
    names = [entry.key for entry in path]
    return PartitionSpec(None, "devices") if experts and "experts" in names else PartitionSpec()


def train(num_devices, *, kernel, shard_experts, shard_tokens):
    config = small("moe", num_experts=8, expert_kernel=kernel)
    apply_fn, params = built(config)
    mesh = Mesh(np.array(jax.devices()[:num_devices]), ("devices",))
    place = lambda path, x: jax.device_put(x, NamedSharding(mesh, spec_of(path, shard_experts)))  # noqa: E731
    params = jax.tree.map_with_path(place, params)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (STEPS, 16, 9))
    rows = NamedSharding(mesh, PartitionSpec("devices" if shard_tokens else None))
    optimizer = optax.sgd(0.05)
    state, balance = optimizer.init(params), jax.device_put(init_balance(config), NamedSharding(mesh, PartitionSpec()))

    def loss(params, balance, tokens):
        logits, info = apply_fn(params, tokens[:, :-1], balance=balance, with_info=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean(), info

    @jax.jit
    def step(params, state, balance, tokens):
        (value, info), gradient = jax.value_and_grad(loss, has_aux=True)(params, balance, tokens)
        updates, state = optimizer.update(gradient, state)
        balance = update_balance(balance, info.load, rate=0.05)
        return optax.apply_updates(params, updates), state, balance, jnp.exp(value), info

    runs = []
    for batch in tokens:
        batch = jax.device_put(batch, rows)
        params, state, balance, perplexity, info = step(params, state, balance, batch)
        runs.append((perplexity, info.load, info.max_attention_logit, balance))
    spread = {len(x.sharding.device_set) for x in jax.tree.leaves(params)}
    names = ("perplexity", "load", "max_logit", "balance")
    record = dict(zip(names, map(np.stack, zip(*runs, strict=True)), strict=True))
    experts = params["layers"]["feed_forward"]["experts"]["up"]["kernel"]
    local = np.array(experts.addressable_shards[0].data.shape)
    return record | {"devices": np.array(sorted(spread)), "local_experts": local[1], "up": np.asarray(experts)}


if __name__ == "__main__":
    results = {}
    for kernel in ("blocks", "ragged"):
        results[f"one_{kernel}"] = train(1, kernel=kernel, shard_experts=False, shard_tokens=False)
        results[f"tokens_{kernel}"] = train(8, kernel=kernel, shard_experts=False, shard_tokens=True)
        results[f"experts_{kernel}"] = train(8, kernel=kernel, shard_experts=True, shard_tokens=True)
    np.savez(sys.argv[1], **{f"{run}_{name}": v for run, record in results.items() for name, v in record.items()})
