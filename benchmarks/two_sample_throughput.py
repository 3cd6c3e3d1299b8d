"""Time, memory and rounding error of the two-sample statistics on one accelerator, against the card's own ceiling.

    python -m benchmarks.two_sample_throughput --n 100000 --d 64 --json two_sample_throughput.json

The samples are n standard normal vectors and n others shifted by 0.02. The ceilings are measured first: a large float32
product at precision "highest" and at "default", and a copy. A row's floor is its counted arithmetic at the ceiling of
its precision plus its pair blocks going once through memory where a product must write them; ``fraction`` is floor over
time. ``error`` is the distance to the same function on float64 inputs, ``null_std`` the statistic's standard deviation
under permutation, which is what an error has to be small against. ``peak`` is the process's highest device memory so
far, ``temporary`` what the compiled program asks for.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.divergences import two_sample as ts


class Case(NamedTuple):
    """A statistic and what it costs."""

    name: str
    fn: Callable[..., Any]
    highest_flops: float = 0.0
    """Arithmetic in float32: exact products, and differences at 3 operations each."""
    default_flops: float = 0.0
    """Products at the device's default precision."""
    bytes: float = 0.0
    """Pair blocks written and read, and inputs."""
    null_of: str = ""
    """The permutation row whose null gives this statistic's standard deviation."""


def cases(n: int, d: int, permutations: int, chunk_size: int) -> list[Case]:
    three, pooled, square = 3.0 * n * n, 4.0 * n * n, 1.0 * n * n
    key, kernel = jax.random.key(1), ts.gaussian_kernel((2.0 * d) ** 0.5)
    several = ts.gaussian_kernel([0.5 * d**0.5, d**0.5, 2.0 * d**0.5, 4.0 * d**0.5])
    chunk = {"chunk_size": chunk_size}
    mmd = partial(ts.squared_mmd, kernel=kernel, **chunk)
    test = partial(ts.kernel_permutation_test, key, num_permutations=permutations, **chunk)
    few = 4

    def slope(p_samples, q_samples):
        return jax.value_and_grad(lambda p: mmd(p_samples=p, q_samples=q_samples))(p_samples)

    # Given, because a draw in float64 would have other directions than one in float32.
    directions = jax.random.normal(key, (128, d), jnp.float32)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)

    def sliced(**samples):
        return jnp.mean(ts.projected_wasserstein(directions, **samples))

    def stein(fn, p_samples, q_samples, **options):
        del q_samples
        return fn(p_samples=p_samples, q_score=jnp.negative, kernel=kernel, **chunk, **options)

    columns = permutations + 2
    return [
        Case("mmd", mmd, 2 * d * three, 0, 8 * three, "mmd_test"),
        Case("mmd_4_bandwidths", partial(mmd, kernel=several), 2 * d * three, 0, 8 * three),
        Case("mmd_laplace", partial(mmd, kernel=ts.laplace_kernel(d**0.5)), 3 * d * three, 0, 0),
        Case("mmd_value_and_grad", slope, 8 * d * three, 0, 24 * three),
        Case("mmd_test", partial(test, kernel=kernel), 2 * d * pooled, 2 * columns * pooled, 16 * pooled),
        Case("energy", partial(ts.energy_distance, estimator="unbiased", **chunk), 3 * d * three, 0, 0, "energy_test"),
        Case(
            "energy_by_expansion",
            partial(mmd, kernel=ts.distance_kernel(distances="expansion")),
            2 * d * three,
            0,
            8 * three,
            "energy_test",
        ),
        Case(
            "energy_test", partial(test, kernel=ts.distance_kernel()), 3 * d * pooled, 2 * columns * pooled, 8 * pooled
        ),
        Case(
            "cauchy_schwarz",
            partial(ts.kernel_cauchy_schwarz, kernel=kernel, estimator="unbiased", **chunk),
            2 * d * three,
            0,
            8 * three,
            "cauchy_schwarz_test",
        ),
        Case(
            "cauchy_schwarz_test",
            partial(test, kernel=kernel, statistic="cauchy_schwarz"),
            2 * d * pooled,
            2 * columns * pooled,
            16 * pooled,
        ),
        Case("knn_kl_k5", partial(ts.knn_kl, **chunk), 6 * d * square, 0, 12 * 2 * square),
        Case("knn_renyi_k5", partial(ts.knn_renyi, 0.5, **chunk), 6 * d * square, 0, 12 * 2 * square),
        Case("ksd", partial(stein, ts.squared_ksd), 8 * d * square, 0, 24 * square, "ksd_test"),
        Case(
            "ksd_test",
            partial(stein, partial(ts.stein_bootstrap_test, key), num_bootstrap=permutations),
            8 * d * square,
            2 * columns * square,
            32 * square,
        ),
        Case("frechet", ts.frechet_distance, 10.0 * n * d * d, 0, 24.0 * n * d),
        Case("sliced_128", sliced, 2.0 * 128 * 2 * n * d, 0, 4.0 * 4 * 128 * n),
        Case(
            f"frechet_test_{few}",
            partial(ts.permutation_test, key, ts.frechet_distance, num_permutations=few, batch_size=1),
            (1 + few) * 10.0 * n * d * d,
            0,
            (1 + few) * 24.0 * n * d,
        ),
        Case(
            f"sliced_test_{few}",
            partial(ts.permutation_test, key, sliced, num_permutations=few, batch_size=1),
            (1 + few) * 2.0 * 128 * 2 * n * d,
            0,
            (1 + few) * 16.0 * 128 * n,
        ),
    ]


def seconds_of(fn: Callable[..., Any], *args: Any, repeats: int) -> float:
    """Median time of a call that ends when the device has its result; one call before warms up."""
    jax.block_until_ready(fn(*args))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn(*args))
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ceilings(side: int, repeats: int) -> dict[str, float]:
    """Float operations per second of square products at two precisions, and bytes per second of a copy."""
    a = jax.random.normal(jax.random.key(0), (side, side))
    out = {}
    for precision in ("highest", "default"):
        product = jax.jit(partial(jnp.matmul, precision=precision))
        out[precision] = 2.0 * side**3 / seconds_of(product, a, a, repeats=repeats)
    long = jnp.ones((16 * side, side // 2))
    out["copy"] = 2.0 * long.nbytes / seconds_of(jax.jit(lambda x: x + 1.0), long, repeats=repeats)
    return out


def first_number(result: Any) -> float:
    return float(jax.tree.leaves(result)[0])


def measure(case: Case, p: jax.Array, q: jax.Array, repeats: int, top: dict[str, float], check: bool) -> dict[str, Any]:
    def call(p, q):
        return case.fn(p_samples=p, q_samples=q)

    start = time.perf_counter()
    compiled = jax.jit(call).lower(p, q).compile()
    compile_seconds = time.perf_counter() - start
    seconds = seconds_of(compiled, p, q, repeats=repeats)
    result = compiled(p, q)
    floor = {
        "highest": case.highest_flops / top["highest"],
        "default": case.default_flops / top["default"],
        "memory": case.bytes / top["copy"],
    }
    stats = jax.devices()[0].memory_stats() or {}
    row = {
        "name": case.name,
        "value": first_number(result),
        "seconds": seconds,
        "compile_seconds": compile_seconds,
        "temporary_gib": compiled.memory_analysis().temp_size_in_bytes / 2**30,
        "peak_gib": stats.get("peak_bytes_in_use", 0) / 2**30,
        "tflop_per_second": (case.highest_flops + case.default_flops) / seconds / 1e12,
        "gb_per_second": case.bytes / seconds / 1e9,
        "floor_ms": {name: 1e3 * value for name, value in floor.items()},
        "fraction": sum(floor.values()) / seconds,
        "fraction_of_arithmetic": (floor["highest"] + floor["default"]) / seconds,
    }
    if isinstance(result, ts.PermutationTest):
        row |= {"p_value": float(result.p_value), "null_std": float(jnp.std(result.null))}
    elif check:
        with jax.enable_x64(True):
            exact = jax.jit(call)(p.astype(jnp.float64), q.astype(jnp.float64))
            row["error"] = abs(first_number(result) - first_number(exact))
            row["relative_error"] = row["error"] / abs(first_number(exact))
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=100_000, help="points in each of the two samples")
    parser.add_argument("--d", type=int, default=64)
    parser.add_argument("--permutations", type=int, default=200)
    parser.add_argument("--chunk-size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="names of the rows to measure")
    parser.add_argument("--no-check", action="store_true", help="do not compute the float64 values")
    parser.add_argument("--budget", type=float, default=105.0, help="start no further row after so many seconds")
    parser.add_argument("--json", type=Path, default=Path("two_sample_throughput.json"))
    args = parser.parse_args()

    began = time.perf_counter()
    device = jax.devices()[0]
    top = ceilings(8192 if device.platform != "cpu" else 512, args.repeats)
    p_key, q_key = jax.random.split(jax.random.key(0))
    p = jax.random.normal(p_key, (args.n, args.d))
    q = 0.02 + jax.random.normal(q_key, (args.n, args.d))
    options = {k: v for k, v in vars(args).items() if k != "json"}
    out = {"device": device.device_kind, "jax": jax.__version__, **options, "ceilings": top, "rows": [], "left_out": []}
    print(json.dumps({k: v for k, v in out.items() if k != "rows"}), flush=True)
    listed = cases(args.n, args.d, args.permutations, args.chunk_size)
    for case in listed:
        if args.only and case.name not in args.only:
            continue
        if time.perf_counter() - began > args.budget:
            out["left_out"].append(case.name)
            continue
        row = measure(case, p, q, args.repeats, top, not args.no_check)
        out["rows"].append(row)
        print(
            f"{case.name:20} {1e3 * row['seconds']:9.2f} ms  {row['fraction']:6.1%} of floor  "
            f"{row['tflop_per_second']:7.2f} TFLOP/s  {row['temporary_gib']:7.3f} GiB  value {row['value']:.7g}  "
            f"error {row.get('error', float('nan')):.1e}  compile {row['compile_seconds']:.1f} s",
            flush=True,
        )
        args.json.write_text(json.dumps(out, indent=1))
    widths = {row["name"]: row["null_std"] for row in out["rows"] if "null_std" in row}
    for case, row in ((c, r) for c in listed for r in out["rows"] if c.name == r["name"]):
        if "error" in row and case.null_of in widths:
            row["error_in_null_std"] = row["error"] / widths[case.null_of]
            print(f"{case.name}: error is {row['error_in_null_std']:.1e} of the null's standard deviation")
    if out["left_out"]:
        print("left out, over the time budget:", ", ".join(out["left_out"]))
    args.json.write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
