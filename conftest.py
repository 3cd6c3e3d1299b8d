"""How a test process uses the machine; set before jax starts, and inherited by the processes that tests start."""

import functools
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

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

# Half the time to compile, for programs that compute what users' do, bit for bit but for the last element or two of an
# array: they keep fused multiply-adds and the polynomials of exp, log and tanh, which LLVM's level 0 does not.
# A worker has one core, so a program is not split into parts that are compiled side by side.
FAST_COMPILATION = (
    "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=1 --xla_cpu_parallel_codegen_split_count=1"
)

# Files whose bounds are a few roundings, or where two programs must round alike for neighbours to be the same. The rest
# of the areas and the guides allow for more and are compiled at level 0, in a fifth of the time.
EXACT = {
    "divergences/linear_head": {"linear_head", "near_zero", "terms"},
    "divergences/two_sample": {"frechet", "gram", "neighbors", "pairs_kernel"},
    "divergences": {
        "categorical", "categorical_laws", "distances", "entropies", "exponential_family", "families", "gaussian",
        "generators", "record", "score_drop",
    },
    "information/neighbors": {"kernels", "neighbors", "sorted_search"},
    "information": {
        "binning", "bounds", "compression", "conditional", "contraction", "kernel_density", "kozachenko", "kraskov",
        "mixed", "nonuniformity", "representation", "sliced",
    },
}  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """The default run on a CPU compiles fast; ``-m slow``, accelerators and whoever sets XLA_FLAGS keep theirs."""
    is_default = "not slow" in config.option.markexpr and not entry_points(group="jax_plugins")
    if not is_default or "XLA_FLAGS" in os.environ:  # workers find what their controller has set
        return
    # XLA aborts on a flag that it does not know, and flags come and go with its versions.
    known = [FAST_COMPILATION] if is_known(FAST_COMPILATION) else filter(is_known, FAST_COMPILATION.split())
    os.environ["XLA_FLAGS"] = " ".join(known)


def is_known(flags: str) -> bool:
    """Whether this XLA starts with the flags."""
    environment = os.environ | {"XLA_FLAGS": flags}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return not subprocess.run(command, env=environment, capture_output=True).returncode


def is_unoptimized(path: Path) -> bool:
    """Whether the tests of this file run programs that are compiled at level 0."""
    folder, name = path.parent.relative_to(ROOT).as_posix(), path.stem.removeprefix("test_")
    is_rough = folder.startswith("tests/") and name not in EXACT.get(folder.removeprefix("tests/"), ())
    is_rough |= (folder, name) == ("tests", "guides")
    flags = os.environ.get("XLA_FLAGS", "").split()
    return bool(flags) and set(flags) <= set(FAST_COMPILATION.split()) and is_rough


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What is compiled at level 0 comes last: a process changes level, and loses its programs, once."""
    items.sort(key=lambda item: is_unoptimized(item.path))


@pytest.fixture(scope="session", autouse=True)
def one_context() -> None:
    """Programs are lowered in one MLIR context: jax makes one for each, 3 ms, that lives as long as its program.

    Each is looked at whenever another is made: after 3,000 programs, the next one takes 1.6 times as long as the first.
    """
    from jax._src.interpreters import mlir

    mlir.make_ir_context = functools.cache(mlir.make_ir_context)


@pytest.fixture(scope="module", autouse=True)
def unoptimized(request: pytest.FixtureRequest) -> None:
    """Sets the level for a file; no program passes from one kind of file to the other."""
    import jax

    is_level_0 = is_unoptimized(request.path)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(is_level_0))  # for the processes that its tests start
    if jax.config.read("jax_disable_most_optimizations") != is_level_0:
        jax.config.update("jax_disable_most_optimizations", is_level_0)
        jax.clear_caches()
