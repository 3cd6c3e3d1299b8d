"""Processor time, wall time and memory of KSG mutual information: ours, and trees of scikit-learn and scipy.

    python -m benchmarks.ksg_throughput --n 16000 --dims 1 4 8 --json ksg_throughput.jsonl
    python -m benchmarks.ksg_throughput --n 10000 --dims 1 4 --permutations 200 --no-peers   # a permutation null

Form 1, Chebyshev, on one draw of d + d correlated normals, one JSON line per estimator, N and d. ``process_seconds``
counts every thread of the process and of no other, the least of ``--repeats`` calls, compilation apart. Peers are left
out where not installed, on more than ``--max-peer`` pairs N (d_x + d_y), or with ``--no-peers``.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.information import ksg, permutation_null

Timed = dict[str, float]


def draw(n: int, d: int, rho: float = 0.6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """X and y of d correlated pairs, float32; their information is -d/2 log(1 - rho^2)."""
    x, noise = np.random.default_rng(seed).normal(size=(2, n, d))
    return x.astype(np.float32), (rho * x + (1.0 - rho**2) ** 0.5 * noise).astype(np.float32)


def value_of(x: np.ndarray, counts: tuple[np.ndarray, np.ndarray], k: int) -> float:
    """Form 1 from its two counts of other points."""
    from scipy.special import digamma

    return float(digamma(k) + digamma(len(x)) - sum(digamma(count + 1).mean() for count in counts))


def by_sklearn(x: np.ndarray, y: np.ndarray, k: int) -> float:
    """As ``mutual_info_regression`` does it, for several columns."""
    from sklearn.neighbors import KDTree, NearestNeighbors

    search = NearestNeighbors(metric="chebyshev", n_neighbors=k, algorithm="kd_tree").fit(np.hstack([x, y]))
    radius = np.nextafter(search.kneighbors()[0][:, -1], 0)
    trees = [KDTree(z, metric="chebyshev") for z in (x, y)]
    counts = [tree.query_radius(z, radius, count_only=True) - 1 for tree, z in zip(trees, (x, y), strict=True)]
    return value_of(x, (counts[0], counts[1]), k)


def by_scipy(x: np.ndarray, y: np.ndarray, k: int) -> float:
    from scipy.spatial import cKDTree

    both = np.hstack([x, y])
    radius = np.nextafter(cKDTree(both).query(both, k + 1, p=np.inf)[0][:, -1], 0)
    counts = [cKDTree(z).query_ball_point(z, radius, p=np.inf, return_length=True) - 1 for z in (x, y)]
    return value_of(x, (counts[0], counts[1]), k)


def timed(call: Callable[[], float], repeats: int) -> tuple[float, Timed]:
    """The call's value and the least of its times."""
    walls, processes, value = [], [], float("nan")
    for _ in range(repeats):
        wall, process = time.perf_counter(), time.process_time()
        value = call()
        walls.append(time.perf_counter() - wall)
        processes.append(time.process_time() - process)
    return value, {"wall_seconds": min(walls), "process_seconds": min(processes)}


def measure(
    n: int, d: int, k: int, form: int, tile: int | None, repeats: int, permutations: int, batch: int
) -> dict[str, Any]:
    """A row for ours: the estimate, or with permutations the p-value of its null."""
    x, y = (jnp.asarray(z) for z in draw(n, d, rho=0.0 if permutations else 0.6))
    estimator = functools.partial(ksg, k=k, form=form, tile=tile)

    def null(x: Any, y: Any) -> Any:
        options = {"key": jax.random.key(0), "num_permutations": permutations, "batch_size": batch}
        return permutation_null(estimator, x, y, **options).p_value

    start = time.perf_counter()
    fn = jax.jit(null if permutations else lambda x, y: estimator(x, y).value).lower(x, y).compile()
    compile_seconds = time.perf_counter() - start
    float(fn(x, y))
    value, times = timed(lambda: float(fn(x, y)), repeats)
    memory = fn.memory_analysis()
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "value": value,
        **times,
        "compile_seconds": compile_seconds,
        "temporary_mib": memory.temp_size_in_bytes / 2**20 if memory is not None else None,
        "peak_mib": stats["peak_bytes_in_use"] / 2**20 if "peak_bytes_in_use" in stats else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, nargs="+", default=[16_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[1, 2, 4, 8], help="d_x = d_y")
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument("--form", type=int, default=1, help="of ours; the peers are form 1")
    parser.add_argument("--tile", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--permutations", type=int, default=0, help="time a permutation null of so many instead")
    parser.add_argument("--batch", type=int, default=8, help="permutations computed at once")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--max-peer", type=int, default=400_000)
    parser.add_argument("--json", type=Path, default=Path("ksg_throughput.jsonl"))
    args = parser.parse_args()

    device = jax.devices()[0]
    with args.json.open("a") as lines:

        def report(**row: Any) -> None:
            text = json.dumps({"device": device.device_kind, "jax": jax.__version__, "k": args.k, **row})
            print(text, flush=True)
            lines.write(text + "\n")
            lines.flush()

        for n in args.n:
            for d in args.dims:
                base = {"n": n, "d_x": d, "d_y": d, "permutations": args.permutations}
                try:
                    options = (args.k, args.form, args.tile, args.repeats, args.permutations, args.batch)
                    row = measure(n, d, *options)
                    report(name="jaxdiv", form=args.form, tile=args.tile, **base, **row)
                except jax.errors.JaxRuntimeError as error:  # out of memory: the other sizes are still worth a run
                    report(name="jaxdiv", form=args.form, tile=args.tile, **base, error=str(error)[:300])
                if args.no_peers or args.permutations or 2 * n * d > args.max_peer:
                    continue
                for name, peer in (("scikit-learn", by_sklearn), ("scipy", by_scipy)):
                    x, y = draw(n, d)
                    try:
                        peer(x[:100], y[:100], args.k)  # imports
                    except ImportError as error:
                        report(name=name, **base, error=str(error))
                        continue
                    value, times = timed(lambda x=x, y=y, peer=peer: peer(x, y, args.k), 1)
                    report(name=name, form=1, **base, value=value, **times)


if __name__ == "__main__":
    main()
