"""Where a step's device time goes, by kernel: for the throughput benchmarks of accelerators."""

import collections
import glob
import json
import tempfile
from collections.abc import Callable
from typing import Any

import jax


def kernel_kind(name: str) -> str:
    """What a device kernel does, from its name."""
    lower = name.lower()
    kinds = {
        "Pallas kernel": ("mosaic", "symmetric_product"),  # Triton's carry their own names
        "convolution": ("fprop", "dgrad", "wgrad", "cudnn", "implicit_gemm"),
        "matrix product": ("gemm", "nvjet", "cublas", "cutlass"),
        "reduction": ("reduce",),
        "copy": ("memcpy", "memset", "copy", "transpose", "concatenate"),
    }
    return next((kind for kind, words in kinds.items() if any(word in lower for word in words)), "elementwise")


def profile(one_more: Callable[[], jax.Array], num_steps: int = 3) -> dict[str, Any]:
    """Device time of a step by kind of kernel, and its most expensive kernels, in ms; ``one_more`` starts a step."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(num_steps):
                out = one_more()
            jax.block_until_ready(out)
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        data = jax.profiler.ProfileData.from_file(path)
    kernels, counts = collections.Counter(), collections.Counter()
    for plane in data.planes:
        if not plane.name.startswith("/device:"):
            continue
        for line in plane.lines:
            if not line.name.startswith("Stream"):  # the other lines repeat the same time by module and operation
                continue
            for event in line.events:
                kernels[event.name] += event.duration_ns / 1e6 / num_steps
                counts[event.name] += 1 / num_steps
    kinds = collections.Counter()
    for name, milliseconds in kernels.items():
        kinds[kernel_kind(name)] += milliseconds
    top = [
        {"kernel": name, "ms": ms, "calls": counts[name], "kind": kernel_kind(name)}
        for name, ms in kernels.most_common(40)
    ]
    return {"device_ms_by_kind": dict(kinds.most_common()), "top_kernels": top}


def print_profile(row: dict[str, Any]) -> None:
    """The kinds, and the ten most expensive kernels."""
    print(json.dumps(row["device_ms_by_kind"]), flush=True)
    for entry in row["top_kernels"][:10]:
        print(f"{entry['ms']:8.2f} ms {entry['calls']:6.1f} calls  {entry['kernel'][:90]}", flush=True)
