"""Muon on a mesh: the same updates as on one device, and no more talk between devices than was promised."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxdiv.optimizers import MatrixAxes, muon, scale_by_muon, scale_to_hyperball
from jaxdiv.optimizers.sharding import Layout, find_layout
from tests.optimizers.eight_devices import CASES, EXPLICIT, STACKED, VARIANT_CASES, VARIANTS

FEW = {
    "few_replicated",
    "few_long",
    "few_short",
    "few_both",
    "large",
    "aol",
    "polar_express",
    "convolution",
    "kernels_few",
}


@pytest.fixture(scope="module")
def results():
    script = Path(__file__).with_name("eight_devices.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2]), "JAX_PLATFORMS": "cpu"}
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout)


@pytest.fixture
def found(results):
    return results["cases"]


def test_eight_devices_do_what_one_does(found):
    assert set(CASES) < set(found)
    for name, row in found.items():
        # A stack of another size may be summed in another order; bfloat16 then rounds to the other side.
        tolerance = {"bfloat16": 0.03, "float16": 5e-3}.get(name, 5e-6)
        assert row["finite"] and row["error"] <= tolerance, (name, row)


def test_exchanges_are_those_promised(found):
    for name, (_, most) in CASES.items():
        if most is not None:
            assert found[name]["exchanges"] == most, (name, found[name])
    assert found["padded"]["exchanges"] == 1, "11 matrices of one shape are filled up to 16"
    assert found["chunks"]["exchanges"] == 2, "two stacks of eight"


def test_nothing_is_exchanged_inside_the_iteration(found):
    """Whole matrices are iterated alone; those that are split add one Gram matrix a step, and the norm before."""
    for name, row in found.items():
        assert row["loops"] == 0 or name.startswith("kernels"), name  # an interpreted kernel is a loop
        if name not in FEW:
            assert row["sums"] == 0, (name, row)
    for name in ("few_replicated", "few_long", "few_short", "few_both", "polar_express"):
        assert found[name]["sums"] == 2 + 5, (name, found[name])
    assert found["aol"]["sums"] == 2 + 4


def test_kernels_work_on_the_local_part(found):
    assert found["kernels"]["kernels"] == 2 * 5, "X X^T and the polynomial of each step"
    assert found["kernels_few"]["kernels"] == 5, "X X^T is a sum over devices there"
    assert found["replicated"]["kernels"] == found["few_long"]["kernels"] == 0


def test_half_precision_travels(found):
    assert found["bfloat16"]["wire"] == found["float16"]["wire"] == ["bf16"]
    assert found["fsdp_inputs"]["wire"] == ["f32"]


def test_three_steps_of_the_whole_optimizer(results):
    assert len(results["trained"]) == 2 and max(results["trained"].values()) < 5e-6


def test_options_add_one_sum_each_whatever_the_number_of_leaves(results):
    found = results["variants"]
    assert len(found) == len(VARIANT_CASES)
    for case, name in VARIANT_CASES:
        row, plain = found[f"{case} {name}"], found[f"{case} plain"]
        assert row["sums"] - plain["sums"] <= len(VARIANTS[name]), (case, name, row, plain)
        assert row["exchanges"] <= plain["exchanges"], (case, name, row, plain)
    assert found["fsdp_inputs both"] == {"error": found["fsdp_inputs both"]["error"], "exchanges": 2, "sums": 2}


def test_options_on_eight_devices_do_what_they_do_on_one(results):
    for name, row in results["variants"].items():
        assert row["error"] < 5e-6, (name, row)


def test_explicit_axes_wherever_the_arrays_lie(results):
    for rows in results["explicit"].values():
        assert len(rows) == len(EXPLICIT)
        for name, row in rows.items():
            assert row["error"] < 2e-6 and row["stays"], (name, row)


@pytest.mark.parametrize("radius", [None, "hyperball"])
def test_explicit_axes_need_their_mesh(radius):
    explicit = jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    placed = {"kernel": jax.device_put(jnp.eye(3), NamedSharding(explicit, P("data")))}
    lies = r"axes \{'data': 1, 'model': 1\} of types Explicit, Explicit, on which the arrays lie"
    optimizer = muon(0.1, radius=radius)
    with pytest.raises(ValueError, match="^scale_by_muon: mesh is None; expected a mesh with the " + lies):
        optimizer.update(placed, optimizer.init(placed), placed)
    optimizer = muon(0.1, radius=radius, mesh=mesh_of_one())
    with pytest.raises(ValueError, match="^scale_by_muon: mesh has axes .* of types Auto, Auto; expected the " + lies):
        optimizer.update(placed, optimizer.init(placed), placed)
    step = scale_to_hyperball(0.1)
    with pytest.raises(ValueError, match="^scale_to_hyperball: mesh is None; expected a mesh with the " + lies):
        step.update(placed, step.init(placed), placed)


def mesh_of_one():
    return jax.make_mesh((1, 1), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def test_layouts():
    mesh = mesh_of_one()
    conv, fused = MatrixAxes((0, 1, 2), 3), MatrixAxes(0, 1, splits=(4, 4))
    assert find_layout((4, 8), MatrixAxes(), P(("data", "model")), mesh) == Layout((), ("data", "model"), ())
    assert find_layout((3, 4, 8), STACKED, P("data", None, "model"), mesh) == Layout(("data",), (), ("model",))
    assert find_layout((4, 8), MatrixAxes(1, 0), P("data"), mesh) == Layout((), (), ("data",))
    assert find_layout((3, 3, 4, 8), conv, P(None, None, None, "data"), mesh) == Layout((), (), ("data",))
    assert find_layout((3, 3, 4, 8), conv, P(None, None, "data"), mesh) is None, "rows of matrices would be interleaved"
    assert find_layout((4, 8), fused, P("data"), mesh) == Layout((), ("data",), ())
    assert find_layout((4, 8), fused, P(None, "data"), mesh) is None, "shards would cut across the splits"


def test_one_device_mesh_and_forms_of_sharding():
    mesh, gradient = (
        mesh_of_one(),
        {"a": {"kernel": jnp.eye(3)}, "b": {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}},
    )
    plain = scale_by_muon(dtype="float32")
    expected, _ = plain.update(gradient, plain.init(gradient))
    for sharding in (None, P("data"), {"a": None, "b": NamedSharding(mesh, P(None, "model"))}):
        optimizer = scale_by_muon(dtype="float32", mesh=mesh, sharding=sharding)
        updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(gradient))
        for x, y in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
            assert float(jnp.abs(x - y).max()) < 1e-6


@pytest.mark.parametrize("sharding", [P("pipeline"), {"kernel": "data"}, {"other": P()}])
def test_malformed_sharding(sharding):
    optimizer = scale_by_muon(mesh=mesh_of_one(), sharding=sharding)
    gradient = {"kernel": jnp.eye(3)}
    with pytest.raises(ValueError, match="scale_by_muon: sharding (holds|is no tree)"):
        optimizer.update(gradient, optimizer.init(gradient))
