"""One optimizer update on one GPU (optimizer and apply, buffers donated): Muon of three libraries and AdamW, with
floors.

    python -m benchmarks.muon_update --out muon_update.jsonl

Sets, float32 parameters and gradients: 124M is 48 matrices of 768x768 and 24 of 768x3072, d256 and d512 the same twelve
layers at these widths, 1.2B is 96 of 2048x2048 and 72 of 2048x5632. Every Muon takes five quintic steps; ours and
torch's in bfloat16, optax's in float32: as it comes (one triple of coefficients, steps unrolled), with a table of
coefficients (which it scans), and so once more with bfloat16 gradients and parameters, which is how optax gets bfloat16
iterations. Floors of ours: the products at the rate that one batched product of the same shape reaches on this card
just before, and the bytes of parameters, gradients and momentum at the rate of a copy. ``ops`` are instructions of the
optimized HLO, ``stablehlo`` the operations handed to XLA. ``--repeats`` is for ours and AdamW; torch runs half as many
and optax a quarter, at least three. Rows go out as they come.

``--groups`` takes the matrices of each two sides as a set of their own, and adds what fraction of the floor ours
reaches and, from a profile, where the rest of the time goes. ``--compile`` traces and compiles and runs nothing.
``--dry`` runs tiny sizes, for a CPU.
"""

import argparse
import functools
import gc
import json
import os
import re
import sys
import time

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # torch shares the card

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.device_profile import profile
from jaxdiv.optimizers import muon
from jaxdiv.optimizers.symmetric_tiles import MosaicTiles, TritonTiles

SETS = {
    "124M": ((48, 768, 768), (24, 768, 3072)),
    "d256": ((48, 256, 256), (24, 256, 1024)),
    "d512": ((48, 512, 512), (24, 512, 2048)),
    "1.2B": ((96, 2048, 2048), (72, 2048, 5632)),
}
DRY_SETS = {
    "124M": ((4, 16, 16), (2, 16, 48)),
    "d256": ((4, 8, 8), (2, 8, 16)),
    "d512": ((4, 8, 16), (2, 8, 24)),
    "1.2B": ((3, 32, 32), (2, 32, 64)),
}
STEPS = 5
# bfloat16 TFLOP/s measured on an H200 for issue 3: a batch of 48 products of 768, one of 2048, and the most (8192).
CEILINGS, CEILING = {768: 462.0, 2048: 461.0}, 778.0


def make_tree(groups, dtype, seed):
    """One leaf a matrix, as a network that is not scanned has them."""
    keys = iter(jax.random.split(jax.random.key(seed), sum(count for count, _, _ in groups)))
    make = jax.jit(lambda key, shape: 0.02 * jax.random.normal(key, shape, dtype), static_argnums=1)
    return {f"{n}x{m}": [{"kernel": make(next(keys), (n, m))} for _ in range(count)] for count, n, m in groups}


def product_flops(groups):
    """Of the full products, with equal work for every Muon: 4 n^2 m + 2 n^3 a step and matrix."""
    return sum(STEPS * count * (4 * n * n * m + 2 * n**3) for count, n, m in groups)


def num_parameters(groups):
    return sum(count * n * m for count, n, m in groups)


def median_ms(call, repeats):
    """Median, least and most milliseconds of calls that return when the device is done; two calls before."""
    call(), call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - start))
    return {"ms": round(float(np.median(times)), 4), "ms_min": round(min(times), 4), "ms_max": round(max(times), 4)}


def compile_update(optimizer, params, state, grads):
    """One jitted update with donated parameters and state, and what making it took."""

    def update(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    start = time.perf_counter()
    traced = jax.jit(update, donate_argnums=(0, 1)).trace(params, state, grads)
    traced_s, start = time.perf_counter() - start, time.perf_counter()
    lowered = traced.lower()
    lower_s, start = time.perf_counter() - start, time.perf_counter()
    compiled = lowered.compile()
    return compiled, {
        "trace_s": round(traced_s, 3),
        "lower_s": round(lower_s, 3),
        "compile_s": round(time.perf_counter() - start, 2),
        "ops": len(re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = ", compiled.as_text(), re.M)),
        "stablehlo": len(re.findall(r" = \"?(?:stablehlo|func|chlo|mhlo)\.", lowered.as_text())),
        "temp_mb": round(compiled.memory_analysis().temp_size_in_bytes / 1e6, 1),
    }


def measure_compilation(optimizer, groups, dtype):
    """`compile_update` from shapes alone; twice, since the first pays for what jax traces once in a process.

    ``first_s`` is that first time to trace and lower.
    """
    params, grads = (jax.eval_shape(lambda seed=seed: make_tree(groups, dtype, seed)) for seed in (0, 1))
    state = jax.eval_shape(optimizer.init, params)
    _, first = compile_update(optimizer, params, state, grads)
    _, row = compile_update(optimizer, params, state, grads)
    return row | {"first_s": round(first["trace_s"] + first["lower_s"], 3)}


def measure_optax(optimizer, groups, dtype, repeats, with_profile=False):
    """One update; by the clock and, where asked for, by the device's own record of its kernels."""
    params, grads = make_tree(groups, dtype, 0), make_tree(groups, dtype, 1)
    state = jax.jit(optimizer.init)(params)
    compiled, made = compile_update(optimizer, params, state, grads)
    carried = [params, state]
    del params, state

    def call():
        carried[:] = jax.block_until_ready(compiled(*carried, grads))
        return carried

    row = median_ms(call, repeats) | made
    row["finite"] = all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(carried[0]))
    if with_profile:
        found = profile(call)
        kinds = found["device_ms_by_kind"]
        row["device_ms_by_kind"] = {kind: round(ms, 4) for kind, ms in kinds.items()}
        row["ms_outside_kernels"] = round(row["ms"] - sum(kinds.values()), 4)
        row["top_kernels"] = [
            {"kernel": k["kernel"][:80], "ms": round(k["ms"], 4), "calls": k["calls"]} for k in found["top_kernels"][:8]
        ]
    return row


def ours(kernels, method="standard", dtype="bfloat16"):
    """Our optimizer, with the products of one kind."""
    return muon(1e-3, weight_decay=0.1, method=method, dtype=dtype, kernels=kernels)


def measure_torch(groups, repeats):
    """torch.optim.Muon as it is: one matrix after the other."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    params = [
        torch.nn.Parameter(0.02 * torch.randn(n, m, device=device)) for count, n, m in groups for _ in range(count)
    ]
    for p in params:
        p.grad = 0.02 * torch.randn_like(p)
    optimizer = torch.optim.Muon(params, lr=1e-3, weight_decay=0.1, ns_steps=STEPS)

    def call():
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return median_ms(call, repeats) | {"torch": torch.__version__}


def measure_floor(groups, repeats):
    """The products at the rate of XLA's batched products, and the bytes at the rate of a copy."""
    row, total = {}, 0.0
    for count, n, m in groups:
        x = jax.random.normal(jax.random.key(0), (count, n, m), jnp.bfloat16) * (n * m) ** -0.5
        a = jax.jit(lambda x: x @ x.mT)(x)
        parts = {}
        for name, call, args, flops in (
            ("gram", lambda x: x @ x.mT, (x,), 2 * n * n * m),
            ("square", lambda a: a @ a, (a,), 2 * n**3),
            ("last", lambda a, x: a @ x, (a, x), 2 * n * n * m),
        ):
            compiled = jax.jit(call).lower(*args).compile()
            inner = 10  # a call alone is as short as its launch

            def repeat(compiled=compiled, args=args, inner=inner):
                for _ in range(inner):
                    last = compiled(*args)
                jax.block_until_ready(last)

            ms = median_ms(repeat, max(3, repeats // 4))["ms"] / inner
            parts[name] = {"ms": round(ms, 4), "tflops": round(count * flops / ms / 1e9, 1)}
            total += STEPS * ms
        row[f"{count} of {n}x{m}"] = parts
    size = num_parameters(groups)
    x = jnp.zeros(max(size, 2), jnp.float32)
    copy = jax.jit(lambda x: x + 1.0).lower(x).compile()
    ms = median_ms(lambda: jax.block_until_ready(copy(x)), repeats)["ms"]
    bytes_ms = ms * 20 / 8  # a copy moves 8 bytes an entry; Muon reads p, g, m and writes p, m
    return {"gemm_ms": round(total, 3), "bytes_ms": round(bytes_ms, 3), "copy_gb_s": round(8 * size / ms / 1e6)} | row


def optimizers(dry):
    """Name -> (maker of the optimizer, dtype of parameters, what --repeats is divided by), in the order of the runs."""
    coefficients = (3.4445, -4.7750, 2.0315)
    peer = functools.partial(optax.contrib.muon, 1e-3, ns_steps=STEPS, weight_decay=0.1)
    table = functools.partial(peer, ns_coeffs=(coefficients,) * STEPS)
    triton = TritonTiles(16, 16, 16) if dry else TritonTiles()
    return {
        "ours xla": (lambda: ours("xla"), jnp.float32, 1),
        "ours auto": (lambda: ours("auto"), jnp.float32, 1),
        "ours triton": (lambda: ours(triton), jnp.float32, 1),
        "ours mosaic": (lambda: ours(MosaicTiles()), jnp.float32, 1),
        "ours gram float16": (lambda: ours("auto", "auto", "float16"), jnp.float32, 1),
        "optax.adamw": (lambda: optax.adamw(1e-3), jnp.float32, 1),
        "optax.contrib.muon": (lambda: peer(ns_coeffs=coefficients), jnp.float32, 4),
        "optax.contrib.muon table": (table, jnp.float32, 4),
        "optax.contrib.muon table bfloat16": (table, jnp.bfloat16, 4),
    }


PARTS = ("floor", *optimizers(dry=False), "torch.optim.Muon")  # torch last, after the buffers of jax are gone


def measure(part, groups, args):
    """One row's numbers."""
    repeats = 3 if args.dry else args.repeats
    if part == "floor":
        return measure_floor(groups, repeats)
    if part == "torch.optim.Muon":
        return measure_torch(groups, max(3, repeats // 2))
    make, dtype, share = optimizers(args.dry)[part]
    if args.compile:
        return measure_compilation(make(), groups, dtype)
    return measure_optax(make(), groups, dtype, max(3, repeats // share), with_profile=args.groups)


def choose_parts(args):
    """Which parts run, in order: those named, or all that the mode can measure."""
    skipped = {"floor", "torch.optim.Muon"} if args.compile else set()
    return [part for part in PARTS if part not in skipped and (not args.parts or part in args.parts)]


def choose_sets(args):
    """(name, groups) of what is measured."""
    for name in args.sets:
        groups = (DRY_SETS if args.dry else SETS)[name]
        yield from ((f"{name} {n}x{m}", ((c, n, m),)) for c, n, m in groups) if args.groups else ((name, groups),)


def against_floors(row, groups, floor):
    """The rate of an update of Muon and, for ours, how near it comes to the floors."""
    flops = product_flops(groups)
    found = {"tflops": round(flops / row["ms"] / 1e9, 1)}
    if not row["part"].startswith("ours"):
        return found
    if floor:
        found["times_floor"] = round(row["ms"] / (floor["gemm_ms"] + floor["bytes_ms"]), 3)
    ceilings = {"at_side": CEILINGS.get(min(groups[0][1:])) if len(groups) == 1 else None, "most": CEILING}
    for name, ceiling in ceilings.items():
        if ceiling:
            floor_ms = flops / ceiling / 1e9
            found[f"ceiling_{name}"] = {
                "tflops": ceiling,
                "floor_ms": round(floor_ms, 4),
                "share": round(floor_ms / row["ms"], 3),
            }
    return found


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="append the rows to this file as JSON lines")
    parser.add_argument("--sets", nargs="+", default=["124M", "1.2B"], choices=list(SETS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="all by default")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--groups", action="store_true", help="each shape by itself, with a profile")
    parser.add_argument("--compile", action="store_true", help="trace and compile only")
    parser.add_argument("--dry", action="store_true", help="tiny, for a CPU")
    args = parser.parse_args(argv)

    def emit(row):
        line = json.dumps(row)
        print(line, flush=True)
        if args.out:
            with open(args.out, "a") as file:
                file.write(line + "\n")

    emit({"device": jax.devices()[0].device_kind, "jax": jax.__version__, "optax": optax.__version__})
    for name, groups in choose_sets(args):
        floor = None
        for part in choose_parts(args):
            row = {"set": name, "part": part, "parameters": num_parameters(groups)}
            start = time.perf_counter()
            try:
                row |= measure(part, groups, args)
            except Exception as failure:  # a peer that is not installed is a row that says so
                emit(row | {"failed": repr(failure)[:400]})
                continue
            if part == "floor":
                floor = row
            elif "ms" in row and part != "optax.adamw":
                row |= against_floors(row, groups, floor)
            emit(row | {"seconds": round(time.perf_counter() - start, 1)})
            gc.collect()
            jax.clear_caches()
            if "torch" in sys.modules:
                sys.modules["torch"].cuda.empty_cache()  # nothing where torch has no GPU


if __name__ == "__main__":
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are results
    main()
