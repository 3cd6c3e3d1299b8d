"""Batched Sinkhorn: ours beside POT, ott-jax and geomloss in one run, the same problems and number of iterations.

    python -m benchmarks.sinkhorn_throughput --json sinkhorn.json

Each row solves B problems of n by m points at epsilon = 0.1 times the mean squared distance: milliseconds (median) of
the regularised cost, of the cost with its gradient in the points, and how far the cost is from a float64 solution that
converged. A peer that is not installed, or refuses, is named and left out. geomloss anneals epsilon and iterates as
often as its scaling says, so its time is for its own accuracy. The online rows never store the cost.
"""

import argparse
import importlib.metadata
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.transport import point_cost, regularized_cost, sinkhorn, sqeuclidean

DENSE = ((256, 16, 16), (64, 64, 64), (16, 128, 256), (8, 512, 512), (1, 2048, 2048))
Run = tuple[Callable[[], Any], Callable[[], Any] | None]
"""A function that returns the values on the host and one that also computes the gradient."""


def milliseconds(fn: Callable[[], Any], repeats: int) -> float:
    fn()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        fn()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3


def ours(x: np.ndarray, y: np.ndarray, epsilon: float, num_iters: int, chunk_size: int | None = None) -> Run:
    def value(x: jax.Array, y: jax.Array) -> jax.Array:
        cost = sqeuclidean(x, y) if chunk_size is None else point_cost(x, y, chunk_size=chunk_size)
        return regularized_cost(sinkhorn(cost, epsilon=epsilon, num_iters=num_iters), cost)

    return _jax_run(value, x, y)


def _jax_run(value: Callable, x: np.ndarray, y: np.ndarray) -> Run:
    def total(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = value(x, y)
        return jnp.sum(values), values

    x, y = jnp.asarray(x), jnp.asarray(y)
    forward = jax.jit(value)
    gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    return lambda: np.asarray(forward(x, y)), lambda: jax.device_get(gradient(x, y))


def ott(x: np.ndarray, y: np.ndarray, epsilon: float, num_iters: int, chunk_size: int | None = None) -> Run:
    from ott.geometry.pointcloud import PointCloud
    from ott.solvers import linear

    def one(x: jax.Array, y: jax.Array) -> jax.Array:
        geometry = PointCloud(x, y, epsilon=epsilon, batch_size=chunk_size)
        solved = linear.solve(
            geometry, min_iterations=num_iters, max_iterations=num_iters, inner_iterations=num_iters, threshold=0.0
        )
        return solved.reg_ot_cost

    return _jax_run(jax.vmap(one), x, y)


def geomloss(x: np.ndarray, y: np.ndarray, epsilon: float, num_iters: int, chunk_size: int | None = None) -> Run:
    import torch
    from geomloss import SamplesLoss

    if chunk_size is not None:
        raise ValueError("its online backend needs KeOps")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = (torch.tensor(v, device=device, requires_grad=True) for v in (x, y))
    # Its cost is |x - y|^2 / 2 and its strength blur^2, so the value is half of ours at twice the strength.
    loss = SamplesLoss("sinkhorn", p=2, blur=(epsilon / 2) ** 0.5, scaling=0.9, debias=False, backend="tensorized")

    def gradient() -> Any:
        grads = torch.autograd.grad(loss(x, y).sum(), (x, y))
        return [g.cpu().numpy() for g in grads]

    return lambda: 2 * loss(x, y).detach().cpu().numpy(), gradient


def pot(x: np.ndarray, y: np.ndarray, epsilon: float, num_iters: int, chunk_size: int | None = None) -> Run:
    from ot.batch import solve_batch

    if chunk_size is not None:
        raise ValueError("its batched solver stores the cost")
    try:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        x, y = (torch.tensor(v, device=device) for v in (x, y))
    except ImportError:
        pass

    def value() -> np.ndarray:
        cost = ((x[:, :, None] - y[:, None]) ** 2).sum(-1)
        # tol has to be positive; nothing meets this one before the iterations end.
        solved = solve_batch(
            cost, reg=epsilon, max_iter=num_iters, tol=1e-30, method="log_sinkhorn", reg_type="kl", grad="detach"
        )
        return np.asarray(solved.value.cpu() if hasattr(solved.value, "cpu") else solved.value)

    return value, None


PEERS = {"jaxdiv": ours, "POT": pot, "ott-jax": ott, "geomloss": geomloss}


def converged(x: np.ndarray, y: np.ndarray, epsilon: float) -> np.ndarray:
    """The regularised cost in float64, iterated until its marginals agree to 1e-9."""
    with jax.enable_x64(True):
        cost = sqeuclidean(x.astype(np.float64), y.astype(np.float64))
        solve = jax.jit(partial(sinkhorn, epsilon=epsilon, num_iters=5000, tol=1e-9))
        return np.asarray(regularized_cost(solve(cost), cost))


def measure(
    shape: tuple[int, int, int], dim: int, num_iters: int, repeats: int, chunk_size: int | None
) -> list[dict[str, Any]]:
    """One row per peer; ``chunk_size`` makes it an online row, compared with ours after the same iterations."""
    batch, n, m = shape
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, n, dim)).astype(np.float32)
    y = (0.5 + 1.2 * rng.normal(size=(batch, m, dim))).astype(np.float32)
    epsilon = 0.1 * float(np.mean((x[:, :64, None] - y[:, None, :64]) ** 2)) * dim
    exact = None if chunk_size else converged(x, y, epsilon)
    rows = []
    for name, peer in PEERS.items():
        row: dict[str, Any] = {"peer": name, "shape": shape, "chunk_size": chunk_size, "num_iters": num_iters}
        try:
            forward, gradient = peer(x, y, epsilon, num_iters, chunk_size)
            values = forward()
            if exact is None:
                exact = values
            row["relative_error"] = float(np.max(np.abs(values - exact) / np.abs(exact)))
            row["value_ms"] = milliseconds(forward, repeats)
            row["gradient_ms"] = milliseconds(gradient, repeats) if gradient else None
        except Exception as error:  # a peer that is absent or broken here must not end the run
            if name == "jaxdiv":
                raise
            row["skipped"] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:90]
        rows.append(row)
        print(line(row), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    batch, n, m = row["shape"]
    problem = f"{batch} x {n} x {m}" + (f", blocks of {row['chunk_size']}" if row["chunk_size"] else "")
    if "skipped" in row:
        return f"| {problem} | {row['peer']} | skipped: {row['skipped']} | | |"
    gradient = "" if row["gradient_ms"] is None else f"{row['gradient_ms']:.2f}"
    return f"| {problem} | {row['peer']} | {row['value_ms']:.2f} | {gradient} | {row['relative_error']:.1e} |"


def versions() -> dict[str, str]:
    found = {}
    for package in ("jax", "jaxlib", "numpy", "POT", "ott-jax", "geomloss", "torch"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-iters", type=int, default=50)
    parser.add_argument("--dim", type=int, default=8, help="dimension of the points")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--online", type=int, nargs="*", default=[4096], help="sizes n = m of the online rows")
    parser.add_argument("--chunk-size", type=int, default=512, help="rows of a block in the online rows")
    parser.add_argument("--online-iters", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="the two smallest shapes only")
    parser.add_argument("--json", type=Path, help="write the rows there")
    args = parser.parse_args()
    report: dict[str, Any] = {"device": jax.devices()[0].device_kind, "versions": versions(), "rows": []}
    print(report["device"], report["versions"])
    print("| problems | peer | value, ms | with gradient, ms | error of the value |\n|---|---|---|---|---|")
    jobs = [(shape, args.num_iters, None) for shape in (DENSE[:2] if args.quick else DENSE)]
    jobs += [((1, n, n), args.online_iters, args.chunk_size) for n in args.online]
    for shape, num_iters, chunk_size in jobs:
        report["rows"] += measure(shape, args.dim, num_iters, args.repeats, chunk_size)
        if args.json:
            args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
