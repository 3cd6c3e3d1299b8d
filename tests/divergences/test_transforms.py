"""Every exported function under shard_map (one side sharded, one replicated), vmap, pmap, grad, jvp and hessian."""

import inspect
import os
import subprocess
import sys

import jax
import pytest
from jax.sharding import AbstractMesh, AxisType

from jaxdiv import divergences as dv
from jaxdiv import transport as tr
from jaxdiv.divergences import two_sample
from tests.divergences.transform_cases import CASES
from tests.divergences.transforms import arrays, sharded


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
        [sys.executable, "-m", "tests.divergences.transforms"],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.stdout.strip() == f"{len(CASES)} equal", done.stdout + done.stderr[-2000:]


# What has no row of its own, by reason.
NUMBERS_ONLY = {"alpha", "jensen_shannon", "skew_kl", "distance_kernel", "epsilon_schedule"}
"""Python numbers come in, and a record or a constant comes out."""
RECORD_OF_F_DIVERGENCE = {
    *("kl_divergence", "reverse_kl_divergence", "jeffreys_divergence", "js_divergence", "alpha_divergence"),
    *("chi2_divergence", "neyman_chi2_divergence", "le_cam_divergence"),
    *("squared_hellinger_distance", "total_variation_distance"),
}
"""One line each, ``f_divergence(record, ...)``; every record is transformed in `test_categorical_laws`."""


def test_every_function_of_arrays_is_in_the_table():
    exported = {name: getattr(package, name) for package in (dv, two_sample, tr) for name in package.__all__}
    functions = {name for name, f in exported.items() if inspect.isfunction(f) and inspect.signature(f).parameters}
    covered = {name.split()[0] for name in CASES}
    assert covered | NUMBERS_ONLY | RECORD_OF_F_DIVERGENCE == functions
    assert not covered & (NUMBERS_ONLY | RECORD_OF_F_DIVERGENCE)
