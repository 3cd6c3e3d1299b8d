"""Every divergence under shard_map (one side sharded, the other replicated), vmap, pmap, grad, jvp and hessian."""

import os
import subprocess
import sys

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from tests.divergences.transform_cases import CASES, arrays, sharded


@pytest.mark.parametrize("swap", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["p sharded", "q sharded"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_have_a_type_under_shard_map(name, swap):
    """Traced alone: what a `shard_map` refuses shows without a compilation."""
    shapes = arrays()
    values, *both = jax.eval_shape(sharded(CASES[name], AbstractMesh((2,), ("d",), (AxisType.Auto,)), swap), *shapes)
    assert values.shape == (2,)
    for gradients in both:
        assert [g.shape for g in gradients] == [x.shape for x in (shapes[::-1] if swap else shapes)]


@pytest.mark.slow
def test_every_transformation_gives_the_same_numbers():
    """On two devices, in a process of its own: sums over the mesh in the gradients of what is replicated, and pmap."""
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-m", "tests.divergences.transform_cases"],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.stdout.strip() == f"{len(CASES)} equal", done.stdout + done.stderr[-2000:]
