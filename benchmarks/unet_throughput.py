"""Throughput of one diffusion training step of the EDM U-Net on one accelerator.

    python -m benchmarks.unet_throughput --sizes 55.7M --batch 512 --out unet_throughput.json

A step is all of EDM's training: images drawn from a data set resident as uint8, flips, noise, the weighted denoising
loss and its gradient, clipping, Adam and the moving average; bfloat16 compute, float32 parameters, state donated.
TFLOP/s are model FLOPs, three forward passes counted from the configuration, over wall-clock time.
"""

import argparse
import gzip
import json
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.device_profile import print_profile, profile
from jaxdiv.networks import UNet, UNetConfig, cifar10_edm, count_flops, functional

SIZES = {
    "7.0M": UNetConfig(model_channels=64, channel_mult=(1, 2, 2), num_blocks=2),
    "20.1M": UNetConfig(model_channels=96, channel_mult=(1, 2, 2), num_blocks=3),
    "27.9M": UNetConfig(model_channels=128, channel_mult=(1, 2, 2), num_blocks=2),
    "55.7M": cifar10_edm(),
}
SIGMA_DATA = 0.5
EMA_DECAY = 0.9995


class State(NamedTuple):
    """What a training step updates."""

    params: dict
    ema: dict
    opt_state: optax.OptState
    step: jax.Array


def edm_loss(params, apply_fn, x0, key, dropout_key):
    """EDM's weighted denoising loss; on the preconditioned output it is the plain error of F against its target."""
    sigma_key, noise_key = jax.random.split(key)
    sigma = jnp.exp(-1.2 + 1.2 * jax.random.normal(sigma_key, (x0.shape[0],)))
    s = sigma[:, None, None, None]
    x = x0 + s * jax.random.normal(noise_key, x0.shape)
    total = s**2 + SIGMA_DATA**2
    target = (x0 - SIGMA_DATA**2 / total * x) * jnp.sqrt(total) / (s * SIGMA_DATA)
    raw = apply_fn(params, x / jnp.sqrt(total), jnp.log(sigma) / 4, key=dropout_key)
    return jnp.mean((raw - target) ** 2)


def make_step(apply_fn, optimizer, batch, use_dropout):
    def step(state, images, key):
        index_key, flip_key, loss_key, dropout_key = jax.random.split(jax.random.fold_in(key, state.step), 4)
        x0 = images[jax.random.randint(index_key, (batch,), 0, images.shape[0])].astype(jnp.float32) / 127.5 - 1
        flip = jax.random.bernoulli(flip_key, shape=(batch, 1, 1, 1))
        x0 = jnp.where(flip, x0[:, :, ::-1], x0)
        dropout_key = dropout_key if use_dropout else None
        loss, grads = jax.value_and_grad(edm_loss)(state.params, apply_fn, x0, loss_key, dropout_key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = optax.incremental_update(params, state.ema, 1 - EMA_DECAY)
        return State(params, ema, opt_state, state.step + 1), loss

    return step


def measure(config, *, batch, use_dropout, num_steps, num_repeats, images, dump):
    """Compiles and times one variant; returns its row, and a function that runs one more step."""
    apply_fn, params = functional(UNet(config, rngs=nnx.Rngs(0)))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3, b2=0.99))
    state = State(params, jax.tree.map(jnp.copy, params), optimizer.init(params), jnp.zeros((), jnp.int32))
    key = jax.random.key(0)
    step = jax.jit(make_step(apply_fn, optimizer, batch, use_dropout), donate_argnums=0)
    start = time.perf_counter()
    compiled = step.lower(state, images, key).compile()
    compile_seconds = time.perf_counter() - start
    if dump is not None:
        with gzip.open(dump, "wt") as file:
            file.write(compiled.as_text())
    losses, seconds = [], []
    for _ in range(5):
        state, loss = compiled(state, images, key)
        losses.append(float(loss))
    for _ in range(num_repeats):
        start = time.perf_counter()
        for _ in range(num_steps):
            state, loss = compiled(state, images, key)
        losses.append(float(loss))  # waits for the device
        seconds.append((time.perf_counter() - start) / num_steps)
    step_seconds = statistics.median(seconds)
    memory = compiled.memory_analysis()
    flops = 3 * count_flops(config) * batch
    row = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "batch": batch,
        "dropout": config.dropout if use_dropout else 0.0,
        "compute_dtype": str(config.compute_dtype()),
        "model_gflop_per_image": flops / batch / 1e9,
        "ms_per_step": step_seconds * 1e3,
        "ms_per_step_of_each_repeat": [s * 1e3 for s in seconds],
        "images_per_second": batch / step_seconds,
        "model_tflop_per_second": flops / step_seconds / 1e12,
        "compile_seconds": compile_seconds,
        "temporary_gib": memory.temp_size_in_bytes / 2**30,
        "arguments_gib": memory.argument_size_in_bytes / 2**30,
        "peak_gib_of_process": (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30,
        "losses": losses,
    }

    def one_more():
        nonlocal state
        state, loss = compiled(state, images, key)
        return loss

    return row, one_more


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["55.7M"])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20, help="steps in each timed repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dropout", action="store_true", help="train with the configuration's dropout")
    parser.add_argument("--profile", action="store_true", help="also list the most expensive kernels")
    parser.add_argument("--dump", action="store_true", help="write the compiled program's text beside the results")
    parser.add_argument("--out", type=Path, default=Path("unet_throughput.json"))
    args = parser.parse_args()

    device = jax.devices()[0]
    result = {
        "device": device.device_kind,
        "versions": {"jax": jax.__version__, "flax": flax.__version__, "optax": optax.__version__},
        "rows": [],
    }
    print(json.dumps(result), flush=True)
    rng = np.random.default_rng(0)
    images = jax.device_put(rng.integers(0, 256, (50_000, 32, 32, 3), dtype=np.uint8))
    for size in args.sizes:
        row, one_more = measure(
            SIZES[size],
            batch=args.batch,
            use_dropout=args.dropout,
            num_steps=args.steps,
            num_repeats=args.repeats,
            images=images,
            dump=args.out.with_name(f"hlo_{size}.txt.gz") if args.dump else None,
        )
        result["rows"].append({"size": size, **row})
        args.out.write_text(json.dumps(result, indent=1))
        print(json.dumps(result["rows"][-1]), flush=True)
        if args.profile:
            result["rows"][-1] |= profile(one_more)
            args.out.write_text(json.dumps(result, indent=1))
            print_profile(result["rows"][-1])
        del one_more  # and with it this size's parameters


if __name__ == "__main__":
    main()
