"""Products with symmetric results on one GPU: kernels that compute half of them, over their tiles, beside XLA's full
product.

    python -m benchmarks.symmetric_products --out symmetric_products.jsonl

Operations, on bfloat16 stacks ``[B, n, m]`` of the two sets of `benchmarks.muon_update`: ``gram`` is x x^T,
``polynomial`` is b A + c A^2 of its result, ``step`` is a X + B X, which is not symmetric and is XLA's in every case.
TFLOP/s count the full product whatever is computed. Errors are the largest of the first and the last matrix against
float32, relative to the largest entry. All tiles are tried on two problems, then the best two of each kernel on all; a
configuration that does not compile is a row that says so. ``--dry`` interprets tiny problems on a CPU.
"""

import argparse
import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.optimizers.symmetric import multiply
from jaxdiv.optimizers.symmetric_tiles import MosaicTiles, TritonTiles

SHAPES = ((48, 768, 768), (24, 768, 3072), (96, 2048, 2048), (72, 2048, 5632))
DRY_SHAPES = ((2, 32, 32), (2, 32, 64))
TRITON = tuple(
    TritonTiles(*tiles)
    for tiles in (
        (128, 128, 64, 8, 3),
        (128, 128, 64, 8, 4),
        (128, 128, 64, 4, 3),
        (128, 128, 64, 4, 4),
        (128, 256, 64, 8, 3),
        (256, 128, 64, 8, 3),
        (128, 256, 64, 8, 4),
        (128, 128, 32, 4, 4),
    )
)
MOSAIC = tuple(
    MosaicTiles(*tiles)
    for tiles in (
        (128, 128, 64, 4),
        (128, 128, 64, 3),
        (64, 128, 64, 4),
        (64, 128, 64, 6),
        (64, 256, 64, 4),
        (64, 128, 128, 3),
    )
)
B, C = -6.3029, 2.6377  # the second row of the "you" schedule


def kernel_calls(kernel, tiles, dry):
    """(gram, polynomial) of one kernel at one tile."""
    if kernel == "xla":
        return lambda x: multiply(x, x.mT), lambda a: multiply(a, a, alpha=C, beta=B, addend=a)
    if kernel == "triton":
        from jaxdiv.optimizers.symmetric_triton import triton_product

        run = functools.partial(triton_product, tiles=tiles, interpret=dry)
    else:
        from jaxdiv.optimizers.symmetric_mosaic import mosaic_product

        run = functools.partial(mosaic_product, tiles=tiles, num_programs=jax.devices()[0].core_count)
    return lambda x: run(x, x), lambda a: run(a, a, alpha=C, beta=B, addend=a)


def last_products(a=3.9505):
    """Ways to write the product that ends a step, with B symmetric [B, n, n]."""

    def diagonal(b, x):
        return jnp.matmul((b.astype(jnp.float32) + a * jnp.eye(b.shape[-1])).astype(b.dtype), x)

    return {
        "a X + B X": lambda b, x: multiply(b, x, beta=a, addend=x),
        "(a I + B) X": diagonal,
        "B X alone": jnp.matmul,
    }


@functools.partial(jax.jit, static_argnums=0)
def make_stack(shape):
    """Normalised Gaussian matrices, as the iteration has them."""
    x = jax.random.normal(jax.random.key(0), shape, jnp.bfloat16)
    return x * jnp.asarray((shape[1] * shape[2]) ** -0.5 * 8.0, jnp.bfloat16)


def time_call(call, arrays, seconds):
    """(compile seconds, milliseconds per call: median of five batches)."""
    start = time.perf_counter()
    compiled = jax.jit(call).lower(*arrays).compile()
    compile_s = time.perf_counter() - start
    result = jax.block_until_ready(compiled(*arrays))
    start = time.perf_counter()
    jax.block_until_ready(compiled(*arrays))
    number = max(1, int(seconds / 5 / max(time.perf_counter() - start, 1e-5)))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(number):
            last = compiled(*arrays)
        jax.block_until_ready(last)
        times.append((time.perf_counter() - start) / number)
    return compile_s, 1e3 * float(np.median(times)), result


def relative_error(result, operation, array):
    """Of the first and last matrix, against float32 products of the same bfloat16 entries."""
    ends = array[np.array([0, -1])].astype(jnp.float32)
    square = jnp.matmul(ends, ends.mT, precision="highest")
    exact = square if operation == "gram" else B * ends + C * square
    got = result[np.array([0, -1])].astype(jnp.float32)
    return float(jnp.max(jnp.abs(got - exact)) / jnp.max(jnp.abs(exact)))


class Sweep:
    """Problems measured under a limit of time; rows go out as they come."""

    def __init__(self, out, limit, dry):
        self.out, self.limit, self.dry, self.started, self.stacks = out, limit, dry, time.perf_counter(), {}

    def emit(self, row):
        """One JSON line."""
        line = json.dumps(row)
        print(line, flush=True)
        if self.out:
            with open(self.out, "a") as file:
                file.write(line + "\n")

    def late(self):
        """Whether the time is spent."""
        return time.perf_counter() - self.started > self.limit

    def array(self, operation, shape):
        """What the operation is applied to."""
        if shape not in self.stacks:
            self.stacks = {shape: make_stack(shape)}  # one at a time: the largest takes 1.7 GB
        x = self.stacks[shape]
        return x if operation == "gram" else jax.jit(lambda x: jnp.matmul(x, x.mT))(x)

    def measure(self, operation, shape, kernel, tiles=None):
        """Milliseconds, or None where it does not run."""
        batch, n, m = shape
        row = {"operation": operation, "shape": shape, "kernel": kernel, "tiles": tiles and tiles._asdict()}
        try:
            array = self.array(operation, shape)
            call = kernel_calls(kernel, tiles, self.dry)[operation == "polynomial"]
            compile_s, ms, result = time_call(call, (array,), 0.0 if self.dry else 0.08)
            error = relative_error(result, operation, array)
        except Exception as failure:  # a tile too large for the machine is a result
            self.emit(row | {"failed": repr(failure)[:400]})
            return None
        tflops = 2 * batch * n * n * (m if operation == "gram" else n) / ms / 1e9
        row |= {"ms": round(ms, 4), "tflops": round(tflops, 1), "error": error, "compile_s": round(compile_s, 2)}
        self.emit(row)
        return ms if error < 0.02 else None

    def measure_last(self, shape):
        """The products that are not symmetric."""
        x = self.array("gram", shape)
        b = jax.jit(lambda x: jnp.matmul(x, x.mT))(x)
        for name, call in last_products().items():
            compile_s, ms, _ = time_call(call, (b, x), 0.0 if self.dry else 0.08)
            tflops = 2 * shape[0] * shape[1] ** 2 * shape[2] / ms / 1e9
            self.emit(
                {"operation": "step", "shape": shape, "kernel": f"xla {name}", "ms": round(ms, 4)}
                | {"tflops": round(tflops, 1), "compile_s": round(compile_s, 2)}
            )


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", help="append the rows to this file as JSON lines")
    parser.add_argument("--seconds", type=float, default=150.0, help="start nothing new after this long")
    parser.add_argument("--quick", action="store_true", help="two tiles of each kernel")
    parser.add_argument("--dry", action="store_true", help="tiny, interpreted, on a CPU")
    args = parser.parse_args(argv)

    sweep = Sweep(args.out, args.seconds, args.dry)
    device = jax.devices()[0]
    sweep.emit({"device": device.device_kind, "jax": jax.__version__})
    shapes = DRY_SHAPES if args.dry else SHAPES
    kernels = {"triton": TRITON, "mosaic": MOSAIC}
    if args.quick:
        kernels = {name: tiles[:2] for name, tiles in kernels.items()}
    if args.dry:
        kernels = {"triton": (TritonTiles(16, 16, 16), TritonTiles(16, 32, 16))}

    first = (("polynomial", shapes[0]), ("gram", shapes[-2]))
    times = {}
    for operation, shape in first:
        sweep.measure(operation, shape, "xla")
        for kernel, choices in kernels.items():
            for tiles in choices:
                if not sweep.late():
                    times[operation, kernel, tiles] = sweep.measure(operation, shape, kernel, tiles)
    for shape in shapes:
        for operation in ("gram", "polynomial"):
            if (operation, shape) in first or sweep.late():
                continue
            sweep.measure(operation, shape, "xla")
            for kernel, choices in kernels.items():
                best = {tiles for op, _ in first for tiles in _ranked(times, op, kernel, choices)[:2]}
                for tiles in sorted(best):
                    if not sweep.late():
                        sweep.measure(operation, shape, kernel, tiles)
        if not sweep.late():
            sweep.measure_last(shape)
    sweep.emit({"seconds": round(time.perf_counter() - sweep.started, 1)})


def _ranked(times, operation, kernel, choices):
    ran = [tiles for tiles in choices if times.get((operation, kernel, tiles))]
    return sorted(ran, key=lambda tiles: times[operation, kernel, tiles])


if __name__ == "__main__":
    main()
