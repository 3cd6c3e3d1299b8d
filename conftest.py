"""How a test process uses the machine; set before jax starts, and inherited by the processes that tests start."""

import os
from pathlib import Path

# Compiled programs are kept between runs and shared by the workers: compilation is most of the suite's time.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("MPLBACKEND", "agg")

# Processes that tests start, and the kernels of notebooks, use this checkout.
ROOT = str(Path(__file__).parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))

# One core for each worker of pytest-xdist: XLA and BLAS size their thread pools by it, so workers do not fight.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
if WORKER.startswith("gw") and hasattr(os, "sched_setaffinity"):
    CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {CORES[int(WORKER[2:]) % len(CORES)]})
