"""Checks on eight simulated devices, run by test_sharding.py in a process of its own: ``eight_devices.py FOLDER``."""

import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiv.training import (
    create_state,
    data_mesh,
    make_train_step,
    replicate,
    restore_checkpoint,
    save_checkpoint,
    shard_batch,
)


def loss_fn(params, batch, key):
    index = batch["index"]
    noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (3,)))(index)
    return jnp.mean((jnp.tanh(batch["x"] + 0.1 * noise) @ params["w"] - 1.0) ** 2), {}


def run(num_devices, optimizer, step_fn):
    mesh = data_mesh(num_devices)
    state = replicate(create_state({"w": jnp.ones((3, 5))}, optimizer, jax.random.key(1)), mesh)
    for step in range(5):
        x = np.random.default_rng(step).standard_normal((16, 3), np.float32)
        state, _ = step_fn(state, shard_batch({"x": x, "index": np.arange(16)}, mesh))
    return mesh, state


def message(function, *arguments, **named):
    try:
        function(*arguments, **named)
    except ValueError as error:
        return str(error)
    raise AssertionError("no ValueError")


def main(folder):
    mesh = data_mesh()
    assert dict(mesh.shape) == {"data": 8} and dict(data_mesh(2).shape) == {"data": 2}
    assert "num_devices is 9" in message(data_mesh, 9)

    batch = shard_batch({"x": np.arange(32).reshape(16, 2)}, mesh)["x"]
    assert [shard.data.shape for shard in batch.addressable_shards] == [(2, 2)] * 8
    np.testing.assert_array_equal(batch, np.arange(32).reshape(16, 2))
    stacked = shard_batch(np.arange(48).reshape(3, 16), mesh, axis=1)
    assert [shard.data.shape for shard in stacked.addressable_shards] == [(3, 2)] * 8
    assert "tree['x'] has 12 examples on axis 0; expected a multiple of 8" in message(
        shard_batch, {"x": np.zeros((12, 2))}, mesh
    )
    assert "has shape (8,); expected an axis 1" in message(shard_batch, np.zeros(8), mesh, axis=1)
    whole = replicate({"k": jax.random.key(3), "n": np.float32(2)}, mesh)
    assert whole["k"].sharding.is_fully_replicated and len(whole["n"].addressable_shards) == 8

    optimizer = optax.adam(0.05)
    step_fn = make_train_step(loss_fn, optimizer)
    _, one = run(1, optimizer, step_fn)
    _, eight = run(8, optimizer, step_fn)
    np.testing.assert_allclose(one.params["w"], eight.params["w"], rtol=2e-6)
    np.testing.assert_allclose(one.ema["w"], eight.ema["w"], rtol=2e-6)

    # saved on one device, restored on eight, and back; also a leaf that is split
    fresh = create_state({"w": jnp.zeros((3, 5))}, optimizer, jax.random.key(0))
    for name, saved, target in (("one", one, mesh), ("eight", eight, data_mesh(1))):
        save_checkpoint(f"{folder}/{name}", 5, saved)
        state = restore_checkpoint(f"{folder}/{name}", replicate(fresh, target)).state
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(saved), strict=True):
            assert a.sharding.mesh == target and a.sharding.is_fully_replicated
            a, b = (jax.random.key_data(x) if x.dtype == saved.key.dtype else x for x in (a, b))
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes() and a.dtype == b.dtype
    save_checkpoint(f"{folder}/split", 1, {"x": batch})
    split = restore_checkpoint(
        f"{folder}/split", {"x": jax.ShapeDtypeStruct((16, 2), batch.dtype, sharding=batch.sharding)}
    )
    assert split.state["x"].sharding == batch.sharding
    np.testing.assert_array_equal(split.state["x"], batch)
    print("all checks passed")


if __name__ == "__main__":
    warnings.simplefilter("error")
    jax.config.update("jax_num_cpu_devices", 8)
    main(sys.argv[1])
