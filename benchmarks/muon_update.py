"""One optimizer update on one GPU (optimizer and apply, buffers donated): Muon of three libraries and AdamW, with
floors.

    python -m benchmarks.muon_update --out muon_update.jsonl

Sets, float32 parameters and gradients: 124M is 48 matrices of 768x768 and 24 of 768x3072, 1.2B is 96 of 2048x2048 and
72 of 2048x5632. Every Muon takes five quintic steps; ours and torch's in bfloat16, optax's in float32, and once more
with bfloat16 gradients and parameters, which is how optax gets bfloat16 iterations. Floors of ours: the products at the
rate that one batched product of the same shape reaches on this card just before, and the bytes of parameters, gradients
and momentum at the rate of a copy. ``ops`` are instructions of the optimized HLO, ``stablehlo`` the operations handed
to XLA. Rows go out as they come. ``--dry`` runs tiny sizes, for a CPU.
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

from jaxdiv.optimizers import muon
from jaxdiv.optimizers.symmetric_tiles import MosaicTiles, TritonTiles

SETS = {"124M": ((48, 768, 768), (24, 768, 3072)), "1.2B": ((96, 2048, 2048), (72, 2048, 5632))}
DRY_SETS = {"124M": ((4, 16, 16), (2, 16, 48)), "1.2B": ((3, 32, 32), (2, 32, 64))}
STEPS = 5


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


def measure_optax(optimizer, groups, dtype, repeats):
    """One jitted update with donated parameters and state."""
    params, grads = make_tree(groups, dtype, 0), make_tree(groups, dtype, 1)
    state = jax.jit(optimizer.init)(params)

    def update(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    start = time.perf_counter()
    traced = jax.jit(update, donate_argnums=(0, 1)).trace(params, state, grads)
    lowered = traced.lower()
    traced_s, start = time.perf_counter() - start, time.perf_counter()
    compiled = lowered.compile()
    compile_s = time.perf_counter() - start
    carried = [params, state]
    del params, state

    def call():
        carried[:] = jax.block_until_ready(compiled(*carried, grads))

    row = median_ms(call, repeats)
    finite = all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(carried[0]))
    return row | {
        "trace_s": round(traced_s, 2),
        "compile_s": round(compile_s, 2),
        "ops": len(re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = ", compiled.as_text(), re.M)),
        "stablehlo": len(re.findall(r" = \"?(?:stablehlo|func|chlo|mhlo)\.", lowered.as_text())),
        "temp_mb": round(compiled.memory_analysis().temp_size_in_bytes / 1e6, 1),
        "finite": finite,
    }


def measure_ours(kernels, groups, repeats, method="standard", dtype="bfloat16"):
    """Ours, with the products of one kind."""
    optimizer = muon(1e-3, weight_decay=0.1, method=method, dtype=dtype, kernels=kernels)
    return measure_optax(optimizer, groups, jnp.float32, repeats)


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


def parts(groups, repeats, dry):
    """Name -> measurement, in the order in which they run; torch last, after the buffers of jax are gone."""
    coefficients = ((3.4445, -4.7750, 2.0315),) * STEPS
    optax_muon = functools.partial(optax.contrib.muon, 1e-3, ns_coeffs=coefficients, ns_steps=STEPS, weight_decay=0.1)
    triton = TritonTiles(16, 16, 16) if dry else TritonTiles()
    return {
        "floor": lambda: measure_floor(groups, repeats),
        "ours xla": lambda: measure_ours("xla", groups, repeats),
        "ours auto": lambda: measure_ours("auto", groups, repeats),
        "ours triton": lambda: measure_ours(triton, groups, repeats),
        "ours mosaic": lambda: measure_ours(MosaicTiles(), groups, repeats),
        "ours gram float16": lambda: measure_ours("auto", groups, repeats, method="auto", dtype="float16"),
        "optax.adamw": lambda: measure_optax(optax.adamw(1e-3), groups, jnp.float32, repeats),
        "optax.contrib.muon": lambda: measure_optax(optax_muon(), groups, jnp.float32, max(3, repeats // 4)),
        "optax.contrib.muon bfloat16": lambda: measure_optax(optax_muon(), groups, jnp.bfloat16, max(3, repeats // 4)),
        "torch.optim.Muon": lambda: measure_torch(groups, max(3, repeats // 2)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="append the rows to this file as JSON lines")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--parts", nargs="+", choices=list(parts((), 1, False)), help="all by default")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--dry", action="store_true", help="tiny, for a CPU")
    args = parser.parse_args()

    jax.config.update("jax_enable_compilation_cache", False)  # compile times are results

    def emit(row):
        line = json.dumps(row)
        print(line, flush=True)
        if args.out:
            with open(args.out, "a") as file:
                file.write(line + "\n")

    emit({"device": jax.devices()[0].device_kind, "jax": jax.__version__, "optax": optax.__version__})
    for name in args.sets:
        groups = (DRY_SETS if args.dry else SETS)[name]
        floor = None
        for part, measure in parts(groups, 3 if args.dry else args.repeats, args.dry).items():
            if args.parts and part not in args.parts:
                continue
            row = {"set": name, "part": part, "parameters": num_parameters(groups)}
            start = time.perf_counter()
            try:
                row |= measure()
            except Exception as failure:  # a peer that is not installed is a row that says so
                emit(row | {"failed": repr(failure)[:400]})
                continue
            if part == "floor":
                floor = row["gemm_ms"] + row["bytes_ms"]
            elif "uon" in part or "ours" in part:
                row["tflops"] = round(product_flops(groups) / row["ms"] / 1e9, 1)
                if floor and "ours" in part:
                    row["times_floor"] = round(row["ms"] / floor, 3)
            emit(row | {"seconds": round(time.perf_counter() - start, 1)})
            gc.collect()
            jax.clear_caches()
            if "torch" in sys.modules:
                sys.modules["torch"].cuda.empty_cache()  # nothing where torch has no GPU


if __name__ == "__main__":
    main()
