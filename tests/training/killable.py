"""A tiny deterministic training run for the kill tests: ``python killable.py --directory DIR [--devices 8]``.

It exercises what a real run has: dropout by step key, adam, an average, batches by step, saves, evaluations.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiv.training import create_state, data_mesh, make_train_step, replicate, shard_batch, train


def batch_of(step: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng((7, step)).standard_normal((16, 4), np.float32)
    return {"x": x, "y": np.sin(x).sum(1)}


def loss_fn(params, batch, key):
    hidden = jnp.tanh(batch["x"] @ params["w1"])
    hidden = jnp.where(jax.random.bernoulli(key, 0.9, hidden.shape), hidden, 0.0)
    return jnp.mean((hidden @ params["w2"] - batch["y"]) ** 2), {"mean_hidden": jnp.mean(hidden)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", required=True)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--num-steps", type=int, default=60)
    parser.add_argument("--steps-per-call", type=int, default=1)
    parser.add_argument("--sleep", type=float, default=0.0, help="seconds per batch, so that a signal finds it at work")
    arguments = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", arguments.devices)

    def batch_fn(step: int) -> dict[str, np.ndarray]:
        time.sleep(arguments.sleep)
        return batch_of(step)

    mesh = data_mesh(arguments.devices)
    keys = jax.random.split(jax.random.key(0), 3)
    params = {"w1": jax.random.normal(keys[0], (4, 8)), "w2": jax.random.normal(keys[1], (8,))}
    optimizer = optax.adam(1e-2)
    n = arguments.steps_per_call
    state = replicate(create_state(params, optimizer, keys[2]), mesh)
    state = train(
        make_train_step(loss_fn, optimizer, decay=0.99, steps_per_call=n),
        state,
        num_steps=arguments.num_steps,
        batch_fn=batch_fn,
        place_fn=lambda batch: shard_batch(batch, mesh, axis=int(n > 1)),
        directory=arguments.directory,
        config={"width": 8},
        save_every=5,
        log_every=1,
        eval_every=10,
        eval_fn=lambda state, step: {"norm": optax.tree.norm(state.ema)},
        steps_per_call=n,
    )
    print("finished at step", int(state.step))


if __name__ == "__main__":
    main()
