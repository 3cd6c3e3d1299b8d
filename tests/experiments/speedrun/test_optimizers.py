"""Rates by progress, and both optimizers against optax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from experiments.speedrun.config import NetworkConfig
from experiments.speedrun.optimizers import MUON_RULES, build_optimizer, scale_by_progress, trapezoid, with_total_steps
from jaxdiv.networks import UNet, functional
from jaxdiv.optimizers import MatrixAxes, route_parameters


def test_the_total_is_no_constant_of_the_program():
    optimizer = scale_by_progress(trapezoid(1.0, warmup=0.0, decay_from=0.0))
    calls = []

    @jax.jit
    def update(updates, state):
        calls.append(1)
        return optimizer.update(updates, state)

    state = optimizer.init(jnp.zeros(()))
    for total in (4, 8):
        rates, current = [], with_total_steps(state, total)
        for _ in range(total):
            scaled, current = update(jnp.ones(()), current)
            rates.append(-float(scaled))
        expected = 0.5 * (1 + np.cos(np.pi * np.arange(total) / total))
        np.testing.assert_allclose(rates, expected, atol=1e-6)
    assert len(calls) == 1


def test_the_total_is_set_wherever_it_lies():
    optimizer = optax.apply_if_finite(build_optimizer("adam", lambda t: 0.1 * (1 - t), b1=0.9, clip_norm=1.0), 3)
    state = with_total_steps(optimizer.init({"a": jnp.ones(2)}), 7)
    assert optax.tree.get(state, "total_steps") == 7


@pytest.mark.parametrize(
    ("progress", "rate"), [(0.0, 0.0), (0.05, 1.0), (0.1, 2.0), (0.5, 2.0), (0.75, 1.0), (1.0, 0.0), (1.5, 0.0)]
)
def test_trapezoid(progress, rate):
    assert float(trapezoid(2.0, warmup=0.1, decay_from=0.5)(progress)) == pytest.approx(rate, abs=1e-6)


def test_a_rate_may_start_at_once_and_never_fall():
    rate_fn = trapezoid(3.0, warmup=0.0, decay_from=1.0)
    assert [float(rate_fn(t)) for t in (0.0, 0.5, 0.999)] == [3.0] * 3


@pytest.mark.parametrize("b1", [0.0, 0.5])
def test_adam_is_optax_adam_with_a_constant_rate(b1):
    ours = build_optimizer("adam", lambda progress: 0.1, b1=b1, clip_norm=1.0)
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1, b1=b1, b2=0.99))
    params = {"kernel": jnp.linspace(-1, 1, 6).reshape(2, 3)}
    states = [optimizer.init(params) for optimizer in (ours, theirs)]
    for scale in (3.0, -1.0):
        gradient = jax.tree.map(lambda p, scale=scale: scale * p + 0.1, params)
        for i, optimizer in enumerate((ours, theirs)):
            updates, states[i] = optimizer.update(gradient, states[i], params)
            if i == 0:
                mine = updates
        np.testing.assert_allclose(mine["kernel"], updates["kernel"], rtol=1e-6)
    sizes = [sum(leaf.size for leaf in jax.tree.leaves(state)) for state in states]
    assert sizes[0] < 10 if b1 == 0 else sizes[0] > 12  # no first moment is kept where none is needed


def test_muon_descends_along_polar_factors_and_takes_adam_for_the_rest():
    params = {"enc": {"conv0": {"kernel": jnp.zeros((3, 3, 4, 8)), "bias": jnp.zeros(8)}}}
    key = jax.random.key(0)
    gradient = {"enc": {"conv0": {"kernel": jax.random.normal(key, (3, 3, 4, 8)), "bias": jnp.linspace(-1, 1, 8)}}}
    optimizer = build_optimizer("muon", lambda progress: 0.1, b1=0.0, clip_norm=1e6)
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    step = updates["enc"]["conv0"]
    np.testing.assert_allclose(step["bias"], -0.1 * np.sign(gradient["enc"]["conv0"]["bias"]), rtol=1e-3)
    matrix = np.asarray(step["kernel"]).reshape(36, 8)
    singular = np.linalg.svd(matrix, compute_uv=False)
    assert singular.max() / singular.min() < 2  # bfloat16 Newton-Schulz, five steps
    assert np.sum(matrix * np.asarray(gradient["enc"]["conv0"]["kernel"]).reshape(36, 8)) < 0


def test_muon_routes_every_parameter_of_the_network():
    shapes = jax.eval_shape(lambda: functional(UNet(NetworkConfig(channels=8).unet(label_dim=10), rngs=nnx.Rngs(0)))[1])
    routes = route_parameters(
        (shapes, {"dense": {"kernel": jax.ShapeDtypeStruct((4, 4), jnp.float32)}}), rules=MUON_RULES
    )
    assert routes[1]["dense"]["kernel"] == "adamw"
    network = routes[0]
    assert network["map_label"]["kernel"] == network["map_layer0"]["kernel"] == "adamw"
    assert network["enc"]["32x32_conv"]["kernel"] == network["dec"]["32x32_aux_conv"]["kernel"] == "adamw"
    block = network["enc"]["16x16_block0"]
    assert block["conv0"]["kernel"] == MatrixAxes(inputs=(0, 1, 2), outputs=(3,))
    assert block["affine"]["kernel"] == MatrixAxes(inputs=(0,), outputs=(1,))
    assert block["conv0"]["bias"] == block["norm0"]["scale"] == "adamw"
