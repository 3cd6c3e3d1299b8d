"""Cost of a distillation cycle of the EDM U-Net on one accelerator, beside the sum of its forward and backward passes.

    python -m benchmarks.cycle_throughput --size 55.7M --batch 512 --methods sid diff_instruct --out cycle.json

First the parts, each jitted alone on the same shapes: a forward pass (F), a forward and backward pass for the
parameters (T), a forward pass with the gradient for the input (V), one Adam step (A). Then whole cycles, one fake step
and one student step, and what the parts predict for them:

    diff_instruct, vsd, ...   3 F + 2 T + 2 A     fake: F, T; student: T, fake F, teacher F
    sid, sim                    F + 2 T + 2 V + 2 A   the score networks are differentiated in their input

A discriminator adds passes that end at the features: D, on real images for the parameters of head and score network (R
where a frozen network gives the features), H, the head alone on given features, E, head and network for the input. Each
is counted as if it were computed apart, though a cycle shares some of their forward passes; their operations are left
out of TFLOP/s.

    sida, uni_instruct        sid's + D + 2 H
    dmd2                      diff_instruct's + D + H + E
    f_distill                 diff_instruct's + 2 R + E
"""

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks.device_profile import print_profile, profile
from benchmarks.unet_throughput import SIZES
from experiments.one_step_image.models import Denoiser, build_head, distillation_networks
from jaxdiv import diffusion, distillation
from jaxdiv.networks import UNet, count_flops, functional

SIGMA_DATA = 0.5


STEPS, REPEATS = 6, 3


def timed(
    name: str,
    fn: Callable,
    *args: Any,
    carry: bool = False,
    profiled: bool = False,
    steps: int = STEPS,
    repeats: int = REPEATS,
) -> dict[str, Any]:
    """Median milliseconds of a jitted function; with ``carry`` its first output replaces its first argument."""
    start = time.perf_counter()
    compiled = jax.jit(fn, donate_argnums=0 if carry else ()).lower(*args).compile()
    compile_seconds = time.perf_counter() - start
    first, rest = args[0], args[1:]
    seconds = []
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        for _ in range(2 if repeat == 0 else steps):
            out = compiled(first, *rest)
            if carry:
                first = out[0]
        np.asarray(jax.tree.leaves(out)[-1])  # waits for the device
        if repeat:
            seconds.append((time.perf_counter() - start) / steps)
    memory = compiled.memory_analysis()
    row = {
        "part": name,
        "ms": statistics.median(seconds) * 1e3,
        "ms_of_each_repeat": [s * 1e3 for s in seconds],
        "compile_seconds": compile_seconds,
        "temporary_gib": memory.temp_size_in_bytes / 2**30,
        "arguments_gib": memory.argument_size_in_bytes / 2**30,
    }
    print(json.dumps(row), flush=True)
    if profiled:

        def one_more() -> Any:
            nonlocal first
            out = compiled(first, *rest)
            first = out[0] if carry else first
            return out[-1]

        row |= profile(one_more)
        print_profile(row)
    return row


def cycle(
    method: distillation.Method,
    denoiser: Denoiser,
    head_fn: Callable,
    head: Any,
    optimizer: optax.GradientTransformation,
    real: jax.Array,
) -> tuple[Callable, distillation.State, distillation.Batch]:
    """A method's ``(state, batch, teacher) -> (state, info)``, and its first two arguments.

    Every fake step sees the same real images [B, H, W, C].
    """
    has_head = method.needs_discriminator
    config = distillation.Config(
        method, denoiser.shape, len(real), student_optimizer=optimizer, fake_optimizer=optimizer,
        sigma_data=denoiser.sigma_data,
    )  # fmt: skip
    networks = distillation_networks(
        denoiser, head_fn if has_head else None, distillation.one_step_student(denoiser.denoise_fn, init_sigma=2.5)
    )
    reals = jnp.broadcast_to(real, (method.num_fake_steps, *real.shape))
    batch = distillation.Batch(real=reals) if has_head else distillation.Batch()
    state = distillation.init(
        config, student=denoiser.params, fake=denoiser.params, head=head if has_head else None, key=jax.random.key(0)
    )
    update = partial(distillation.update, config=config, networks=networks)
    return (lambda state, batch, teacher: update(state, batch, teacher=teacher)), state, batch


def head_passes(method: distillation.Method) -> dict[str, int]:
    """What a discriminator adds to a cycle of one fake step."""
    if not method.needs_discriminator:
        return {}
    if method.feature_source == "teacher":
        return {"R": 2, "E": 1}
    return {"D": 1, "H": 2} if method.objective.gradient == "expanded" else {"D": 1, "H": 1, "E": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="55.7M", choices=SIZES)
    parser.add_argument("--batch", type=int, default=512)
    methods = [name for name, method in distillation.METHODS.items() if not method.regression_weight]  # needs pairs
    parser.add_argument("--methods", nargs="+", choices=methods, default=["sid", "diff_instruct"])
    parser.add_argument("--profile", action="store_true", help="also list the most expensive kernels of each cycle")
    parser.add_argument("--out", type=Path, default=Path("cycle_throughput.json"))
    args = parser.parse_args()
    config, batch = SIZES[args.size], args.batch
    apply_fn, params = functional(UNet(config, rngs=nnx.Rngs(0)))
    denoise_fn = diffusion.precondition(apply_fn, sigma_data=SIGMA_DATA)
    shape = (config.image_size, config.image_size, config.channels)
    forward_flops = count_flops(config) * batch
    report: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "versions": {m.__name__: m.__version__ for m in (jax, flax, optax)},
        "size": args.size,
        "batch": batch,
        "compute_dtype": str(config.compute_dtype()),
        "forward_gflop_per_image": forward_flops / batch / 1e9,
        "rows": [],
    }

    def record(row: dict[str, Any], flops: float) -> dict[str, Any]:
        row["images_per_second"] = batch / row["ms"] * 1e3
        row["model_tflop_per_second"] = flops / row["ms"] / 1e9
        report["rows"].append(row)
        args.out.write_text(json.dumps(report, indent=1) + "\n")
        return row

    x = jax.random.normal(jax.random.key(1), (batch, *shape))
    sigma = jnp.exp(jax.random.normal(jax.random.key(2), (batch,)))
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adam(1e-4, b1=0.0, b2=0.999))

    def squared(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean(jnp.square(denoise_fn(params, x, sigma)))

    def adam(carry: tuple, gradient: Any) -> tuple:
        params, state = carry
        changes, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, changes), state), jnp.zeros(())

    parts = {
        "F": record(timed("forward", lambda p: denoise_fn(p, x, sigma), params), forward_flops),
        "T": record(timed("forward and backward, parameters", jax.grad(squared), params, x), 3 * forward_flops),
        "V": record(timed("forward and backward, input", jax.grad(squared, argnums=1), params, x), 2 * forward_flops),
    }
    carry = jax.tree.map(jnp.copy, (params, optimizer.init(params)))
    gradient = jax.tree.map(jnp.zeros_like, params)
    parts["A"] = record(timed("Adam step", adam, carry, gradient, carry=True), 0.0)
    passes = {True: {"F": 1, "T": 2, "V": 2, "A": 2}, False: {"F": 3, "T": 2, "V": 0, "A": 2}}
    multiples = {"F": 1, "T": 3, "V": 2, "A": 0}

    chosen = {name: dataclasses.replace(distillation.method(name), num_fake_steps=1) for name in args.methods}
    denoiser = Denoiser(denoise_fn, params, SIGMA_DATA, shape)
    head_fn, head = build_head(denoiser, seed=0)
    if any(method.needs_discriminator for method in chosen.values()):

        def logit(params: Any, head: Any, x: jax.Array) -> jax.Array:
            return jnp.mean(head_fn(head, denoise_fn(params, x, sigma, with_features=True)[1], sigma))

        features = jax.jit(lambda p: denoise_fn(p, x, sigma, with_features=True)[1])(params)
        for letter, title, fn, inputs in (
            ("D", "discriminator, all parameters", jax.grad(logit, argnums=(0, 1)), (params, head, x)),
            ("R", "discriminator, the head's parameters", jax.grad(logit, argnums=1), (params, head, x)),
            ("E", "discriminator, input", jax.grad(logit, argnums=2), (params, head, x)),
            (
                "H",
                "head alone",
                jax.grad(lambda h, f: jnp.mean(head_fn(h, f, sigma)), argnums=(0, 1)),
                (head, features),
            ),
        ):
            parts[letter] = record(timed(title, fn, *inputs), 0.0)

    for name, method in chosen.items():
        update, state, real = cycle(method, denoiser, head_fn, head, optimizer, x)
        row = timed(
            f"cycle of {name}", update, state, real, params, carry=True, profiled=args.profile,
        )  # fmt: skip
        count = passes[method.objective.gradient == "expanded"]
        row["predicted_ms"] = sum(n * parts[part]["ms"] for part, n in (count | head_passes(method)).items())
        row["measured_over_predicted"] = row["ms"] / row["predicted_ms"]
        record(row, forward_flops * sum(n * multiples[part] for part, n in count.items()))
        print(f"{name}: {row['ms']:.1f} ms, the parts say {row['predicted_ms']:.1f} ms", flush=True)
    report["peak_gib_of_process"] = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
