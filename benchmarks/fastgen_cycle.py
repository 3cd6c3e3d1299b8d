"""A distillation cycle beside NVIDIA FastGen's: same method, network, batch and number of fake steps, on one device.

    python -m benchmarks.fastgen_cycle --fastgen DIR --size 27.9M --batch 256 --out fastgen_cycle.json

DIR is a checkout of github.com/NVlabs/FastGen, which is not part of this repository; ``benchmarks.fastgen_peer`` says
how its classes are run, what they are given in place of packages that are missing, and its variants. Each row is a
process of its own, so that peak memory is the row's and neither framework holds memory of the other. FastGen has no
SiD; the methods are those that both have:

    dmd2               adversarial term on the teacher's features, as FastGen has it for both methods
    f_distill          the same with the weight of Jensen-Shannon
    dmd2_without_gan   DMD2's matching alone

A cycle is ``--fake-steps`` updates of fake score and discriminator and one of the student. The passes through each
network are printed for both: FastGen's are counted by hooks, ours follow from the method, and so are the operations
(FastGen's by torch's counter, ours by XLA's of the program before optimization; with one fake step only). What differs:
the discriminators' last layers, our second norm (FastGen clips the student's gradient alone), our average once a cycle
(FastGen's every iteration) and our diagnostics. FastGen's loop waits for the device where its own callbacks do.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import fastgen_peer

# JAX is imported in functions: the parent starts processes and must not hold the device.
SIZES = ("27.9M", "55.7M")
OUR_NAMES = {"dmd2": "dmd2", "f_distill": "f_distill", "dmd2_without_gan": "dmd2"}


def expected_passes(method: str, fake_steps: int) -> dict[str, int]:
    """Passes of one cycle through each network's encoder and decoder, by the method's formulas.

    A fake step generates, and trains the fake score on the result; the discriminator reads the teacher's encoder on
    real and generated images. The student's step needs all three networks, and its adversarial term the gradient of
    the teacher's encoder for the input.
    """
    gan = method != "dmd2_without_gan"
    counts = {
        "student encoder forward": fake_steps + 1,
        "student decoder forward": fake_steps + 1,
        "student encoder backward": 1,
        "student decoder backward": 1,
        "fake encoder forward": fake_steps + 1,
        "fake decoder forward": fake_steps + 1,
        "fake encoder backward": fake_steps,
        "fake decoder backward": fake_steps,
        "teacher encoder forward": 1 + 2 * fake_steps * gan,
        "teacher decoder forward": 1,
        "teacher encoder backward": int(gan),
    }
    return {key: count for key, count in sorted(counts.items()) if count}


def different_passes(ours: dict[str, int], theirs: dict[str, int]) -> list[str]:
    """One line for every count in which the two cycles differ."""
    keys = sorted(set(ours) | set(theirs))
    return [f"{k}: {ours.get(k, 0)} and {theirs.get(k, 0)}" for k in keys if ours.get(k, 0) != theirs.get(k, 0)]


def unet_config(size: str) -> Any:
    """The network; "dry" is tiny and has the same levels."""
    from benchmarks import unet_throughput
    from jaxdiv.networks import UNetConfig

    if size == "dry":
        return UNetConfig(model_channels=8, channel_mult=(1, 2, 2), num_blocks=2)
    return unet_throughput.SIZES[size]


def our_row(settings: dict[str, Any]) -> dict[str, Any]:
    """Builds and times our cycle in this process."""
    import flax
    import jax
    import optax
    from flax import nnx

    from benchmarks import cycle_throughput
    from experiments.one_step_image.models import Denoiser, build_head
    from jaxdiv import diffusion, distillation
    from jaxdiv.networks import UNet, functional

    name, config = settings["method"], unet_config(settings["size"])
    method = dataclasses.replace(
        distillation.method(OUR_NAMES[name]), num_fake_steps=settings["fake_steps"], feature_source="teacher"
    )
    if name == "dmd2_without_gan":
        method = dataclasses.replace(method, gan_weight=0.0)
    apply_fn, params = functional(UNet(config, rngs=nnx.Rngs(0)))
    shape = (config.image_size, config.image_size, config.channels)
    sigma_data = cycle_throughput.SIGMA_DATA
    denoiser = Denoiser(diffusion.precondition(apply_fn, sigma_data=sigma_data), params, sigma_data, shape)
    head_fn, head = build_head(denoiser, seed=0, layers=fastgen_peer.feature_levels(config.channel_mult))
    optimizer = optax.chain(optax.clip_by_global_norm(10.0), optax.adamw(1e-4, b1=0.0, b2=0.999, weight_decay=0.01))
    real = jax.random.uniform(jax.random.key(1), (settings["batch"], *shape), minval=-1.0)
    update, state, batch = cycle_throughput.cycle(method, denoiser, head_fn, head, optimizer, real)
    cost = jax.jit(update).lower(state, batch, params).cost_analysis() if settings["fake_steps"] == 1 else None
    row = cycle_throughput.timed(
        f"cycle of {name}", update, state, batch, params,
        carry=True, steps=settings["steps"], repeats=settings["repeats"],
    )  # fmt: skip
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    return row | {
        "peak_gib": None if peak is None else peak / 2**30,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "head_parameters": sum(leaf.size for leaf in jax.tree.leaves(head)) if method.needs_discriminator else 0,
        "passes": expected_passes(name, settings["fake_steps"]),
        "tflop": cost["flops"] / 1e12 if cost else None,
        "device": jax.devices()[0].device_kind,
        "compute_dtype": str(config.compute_dtype()),
        "versions": {m.__name__: m.__version__ for m in (jax, flax, optax)},
    }


def child(command: list[str], timeout: float) -> dict[str, Any]:
    """The JSON of a process's last line, or what went wrong."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return {"error": f"no result within {timeout:.0f} s"}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text; ratios are to our row of the same method."""
    ours = {row["method"]: row["ms"] for row in rows if row["side"] == "jaxdiv" and "ms" in row}
    lines = [f"{'method':18}{'side':26}{'ms':>9}{'min':>9}{'max':>9}{'images/s':>10}{'GiB':>7}{'TFLOP':>8}{'ratio':>7}"]
    for row in rows:
        start = f"{row['method']:18}{row['side']:26}"
        if "error" in row:
            lines.append(f"{start}failed: {row['error']}")
            continue
        each, base = row["ms_of_each_repeat"], ours.get(row["method"])
        memory, flop = (f"{row[k]:.2f}" if row.get(k) is not None else "-" for k in ("peak_gib", "tflop"))
        ratio = f"{row['ms'] / base:.2f}" if base else "-"
        lines.append(
            f"{start}{row['ms']:9.1f}{min(each):9.1f}{max(each):9.1f}{row['images_per_second']:10.0f}"
            f"{memory:>7}{flop:>8}{ratio:>7}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fastgen", type=Path, help="a checkout of FastGen; without it only ours is timed")
    parser.add_argument("--fastgen-commit", help="its commit, where the folder has no history")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has torch")
    parser.add_argument("--size", default="27.9M", choices=SIZES)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--fake-steps", type=int, default=1)
    parser.add_argument("--methods", nargs="+", choices=OUR_NAMES, default=list(OUR_NAMES))
    parser.add_argument(
        "--variants", nargs="+", choices=fastgen_peer.VARIANTS, default=["shipped", "bare", "compiled_bare"]
    )
    parser.add_argument("--steps", type=int, default=10, help="cycles in each timed repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=3, help="FastGen's cycles before the clock")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for one row")
    parser.add_argument("--dry", action="store_true", help="a tiny network on a CPU: does it run?")
    parser.add_argument("--ours", type=json.loads, help=argparse.SUPPRESS)  # a row's settings, for the child process
    parser.add_argument("--out", type=Path, default=Path("fastgen_cycle.json"))
    args = parser.parse_args()
    if args.ours:
        print(json.dumps(our_row(args.ours)), flush=True)
        return
    size, device = ("dry", "cpu") if args.dry else (args.size, "cuda")
    batch, steps, repeats = (2, 1, 2) if args.dry else (args.batch, args.steps, args.repeats)
    unet = dataclasses.asdict(unet_config(size)) | {"dtype": None}
    rows: list[dict[str, Any]] = []
    for method in args.methods:
        common = {
            "method": method, "size": size, "batch": batch, "fake_steps": args.fake_steps, "steps": steps,
            "repeats": repeats, "warmup": 1 if args.dry else args.warmup,
        }  # fmt: skip
        jobs = [("jaxdiv", [sys.executable, "-m", "benchmarks.fastgen_cycle", "--ours", json.dumps(common)])]
        for variant in args.variants if args.fastgen else ():
            settings = json.dumps(common | {"variant": variant, "unet": unet})
            command = [args.peer_python, "-m", "benchmarks.fastgen_peer", "--fastgen", str(args.fastgen)]
            jobs.append((f"FastGen, {variant}", [*command, "--device", device, "--settings", settings]))
        for side, command in jobs:
            row = common | {"side": side} | child(command, args.timeout)
            if "ms" in row:
                row["images_per_second"] = batch / row["ms"] * 1e3
                row["different_passes"] = different_passes(expected_passes(method, args.fake_steps), row["passes"])
            if "commit" in row:
                row["commit"] = args.fastgen_commit or row["commit"]
            rows.append(row)
            print(json.dumps(row), flush=True)
            args.out.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows), flush=True)


if __name__ == "__main__":
    main()
