"""Muon as a whole: against numpy in float64, torch's recorded steps, and optax where the conventions coincide."""

import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from jaxdiv.optimizers import (
    DEFAULT_RULES,
    SCALES,
    MatrixAxes,
    muon,
    orthogonalize,
    route_parameters,
    scale_by_muon,
)
from tests.optimizers import torch_muon
from tests.optimizers.reference import AdamW, Muon, numpy_tree, polar

AXES = {
    "torch_like": MatrixAxes(inputs=1, outputs=0),
    "conv": MatrixAxes(inputs=(0, 1, 2), outputs=3),
    "fused": MatrixAxes(0, 1, splits=(6, 4, 4)),
    "heads": MatrixAxes(0, 1, splits=(4, 4, 4)),
    "stacked": MatrixAxes(-2, -1, batch=0),
}
RULES = (*((name, axes) for name, axes in AXES.items()), *DEFAULT_RULES)


def routes(params):
    return route_parameters(params, rules=RULES)


def flat(tree):
    return {
        jax.tree_util.keystr(k, simple=True, separator="/"): x for k, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def pull(step, x):
    """A gradient of full rank that depends on the parameter."""
    index = np.arange(np.size(x)).reshape(np.shape(x))
    return jnp.asarray(np.sin(0.37 * index**2 + 1.3 * step), x.dtype) + 0.3 * x


def run_ours(optimizer, params, steps):
    @jax.jit
    def one(params, state, noise):
        gradient = jax.tree.map(lambda n, p: n + 0.3 * p, noise, params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for step in range(steps):
        noise = jax.tree.map(lambda p, t=step: pull(t, p) - 0.3 * p, params)
        params, state = one(params, state, noise)
    return params, state


def run_reference(steps, rate, aux_rate, aux_decay=0.0, **options):
    params = flat(numpy_tree())
    rules = {k: AdamW(p, decay=aux_decay) if k in ("embedding", "dense/bias") else Muon(k, p, **options)
             for k, p in params.items()}  # fmt: skip
    for t in range(steps):
        for name, rule in rules.items():
            index = np.arange(params[name].size).reshape(params[name].shape)
            gradient = np.sin(0.37 * index**2 + 1.3 * t) + 0.3 * params[name]
            params[name] = rule.step(t, params[name], gradient, (aux_rate if isinstance(rule, AdamW) else rate)(t))
    return params


def rising(t):
    return 0.85 + 0.1 * jnp.asarray(t, float) / 20


VARIANTS = {
    "default": ({}, {}),
    "plain momentum, scheduled": ({"nesterov": False, "momentum": rising}, {"nesterov": False, "momentum": rising}),
    "spectral": ({"scale": "spectral", "weight_decay": 0.0}, {"scale": "spectral", "decay": 0.0}),
    "original, cautious": ({"scale": "original", "weight_decay": 0.4, "cautious": True},
                           {"scale": "original", "decay": 0.4, "cautious": True}),
    "normuon": ({"second_moment": "normuon", "second_moment_decay": 0.9}, {"normuon": 0.9}),
    "hyperball": ({"radius": "hyperball"}, {"hyperball": True}),
    "hyperball, normuon": ({"radius": "hyperball", "second_moment": "normuon"}, {"hyperball": True, "normuon": 0.95}),
    "small stacks": ({"max_stack_bytes": 500}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_twenty_steps_are_those_of_numpy(name, x64):
    ours, theirs = VARIANTS[name]

    def rate(t):
        return 0.05 * (1 - jnp.float64(t) / 25)

    def aux_rate(t):
        return 0.02 / (1 + jnp.float64(t))

    params = jax.tree.map(jnp.asarray, numpy_tree())
    optimizer = muon(rate, routes=routes, dtype="float64", aux_learning_rate=aux_rate, aux_weight_decay=0.2, **ours)
    got, state = run_ours(optimizer, params, 20)
    expected = run_reference(20, rate, aux_rate, 0.2, **theirs)
    assert all(x.dtype == jnp.float64 for x in jax.tree.leaves(got))
    for key, x in flat(got).items():
        np.testing.assert_allclose(x, expected[key], rtol=0, atol=1e-12, err_msg=key)
        assert np.abs(x - flat(numpy_tree())[key]).max() > 1e-3, "it moved"


def test_single_precision_stays_near_numpy():
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), numpy_tree())
    got, state = run_ours(muon(0.02, routes=routes, dtype="float32"), params, 20)
    expected = run_reference(20, lambda t: 0.02, lambda t: 0.02)
    for key, x in flat(got).items():
        np.testing.assert_allclose(x, expected[key], atol=2e-4, err_msg=key)


@pytest.mark.parametrize("run", torch_muon.RUNS)
def test_torch(run):
    """G1: torch iterates in bfloat16 too, and rounds elsewhere."""
    recorded = np.load(Path(__file__).with_name("torch_muon.npz"))
    settings = torch_muon.RUNS[run]
    optimizer = muon(
        settings["lr"],
        routes=MatrixAxes(inputs=1, outputs=0),
        schedule="jordan",
        weight_decay=settings["weight_decay"],
        momentum=settings["momentum"],
        nesterov=settings["nesterov"],
        scale=run,
    )
    params = {name: jnp.asarray(torch_muon.start(shape), jnp.float32) for name, shape in torch_muon.SHAPES.items()}
    first, state, step = params, optimizer.init(params), jax.jit(optimizer.update)
    for t in range(torch_muon.STEPS):
        gradient = jax.tree.map(lambda p, t=t: jnp.asarray(torch_muon.gradient(t, p), jnp.float32), params)
        updates, state = step(gradient, state, params)
        params = optax.apply_updates(params, updates)
    worst = max(float(np.abs(params[name] - recorded[f"{run}_{name}"]).max()) for name in params)
    moved = max(float(np.abs(params[name] - first[name]).max()) for name in params)
    assert worst <= 1e-3 and worst <= 0.02 * moved, (worst, moved)


def test_optax_without_nesterov():
    """Its bias correction is a factor, which the polar factor removes; with Nesterov it would turn the first steps."""
    params = {k: jnp.asarray(x, jnp.float32) for k, x in numpy_tree().items() if k in ("torch_like", "stacked", "conv")}
    numbers = {
        "torch_like": optax.contrib.MuonDimensionNumbers(1, 0),
        "stacked": optax.contrib.MuonDimensionNumbers(1, 2),
        "conv": optax.contrib.MuonDimensionNumbers((0, 1, 2), 3),
    }
    theirs = optax.contrib.muon(
        0.1, nesterov=False, weight_decay=0.3, consistent_rms=0.2, muon_weight_dimension_numbers=numbers
    )
    ours = muon(0.1, routes=numbers, schedule="jordan", nesterov=False, weight_decay=0.3, dtype="float32")
    got, expected = run_ours(ours, params, 5)[0], run_ours(theirs, params, 5)[0]
    for key in params:
        np.testing.assert_allclose(got[key], expected[key], atol=2e-5, err_msg=key)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_parameters(dtype):
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), numpy_tree())
    optimizer = muon(0.02, routes=routes)
    state = optimizer.init(params)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(state) if x.ndim)
    gradient = jax.tree.map(jnp.sin, params)
    updates, state = jax.jit(optimizer.update)(gradient, state, params)
    new = optax.apply_updates(params, updates)
    exact = Muon("stacked", np.asarray(params["stacked"], np.float64))
    expected = exact.step(0, exact.m + np.asarray(params["stacked"]), np.asarray(gradient["stacked"], np.float64), 0.02)
    assert new["stacked"].dtype == params["stacked"].dtype
    np.testing.assert_allclose(np.asarray(new["stacked"], np.float64), expected, atol=0.02)


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_the_size_of_gradients_does_not_count(size, dtype):
    gradient = {"kernel": jnp.asarray(np.random.default_rng(1).standard_normal((12, 30)) * size, jnp.float32)}
    optimizer = scale_by_muon(scale="original", dtype=dtype, schedule="polar_express_8")
    updates, _ = optimizer.update(gradient, optimizer.init(gradient))
    values = np.linalg.svd(updates["kernel"], compute_uv=False) / np.sqrt(2.5)
    assert 0.97 < values.min() and values.max() < 1.03


def test_a_gradient_of_zeros_moves_nothing():
    params = {"kernel": jnp.ones((3, 5))}
    optimizer = muon(0.1, weight_decay=0.0)
    updates, state = optimizer.update({"kernel": jnp.zeros((3, 5))}, optimizer.init(params), params)
    assert not np.any(updates["kernel"]) and int(state.inner_states["muon"].inner_state[0].count) == 1


@pytest.mark.parametrize("scale", ["match_rms", "spectral", "original", "own"])
def test_scale(scale):
    """The polar factor's singular values are 1, so the update's are the factor; [in, out] is told from [out, in]."""
    scale_fn = SCALES.get(scale, lambda inputs, outputs: inputs + outputs / 10)
    gradient = {"kernel": jnp.asarray(np.random.default_rng(1).standard_normal((6, 24)), jnp.float32)}
    for axes, sides in ((MatrixAxes(0, 1), (6, 24)), (MatrixAxes(1, 0), (24, 6))):
        optimizer = scale_by_muon(
            routes=axes, scale=scale if scale in SCALES else scale_fn, schedule="polar_express_8", dtype="float32"
        )
        updates, _ = optimizer.update(gradient, optimizer.init(gradient))
        values = np.linalg.svd(updates["kernel"], compute_uv=False)
        np.testing.assert_allclose(values, scale_fn(*sides), rtol=1e-3)
    expected = {"match_rms": 0.2 * 24**0.5, "spectral": 0.5, "original": 1.0, "own": 24.6}
    assert scale_fn(24, 6) == pytest.approx(expected[scale])


def test_match_rms_gives_entries_of_a_fifth():
    gradient = {"kernel": jnp.asarray(np.random.default_rng(1).standard_normal((32, 128)), jnp.float32)}
    updates, _ = scale_by_muon().update(gradient, scale_by_muon().init(gradient))
    assert float(jnp.sqrt(jnp.mean(updates["kernel"] ** 2))) == pytest.approx(0.2, rel=0.02)


def test_direction_is_the_polar_factor_of_the_look_ahead():
    rng = np.random.default_rng(2)
    g1, g2 = ({"kernel": rng.standard_normal((5, 8)).astype(np.float32)} for _ in range(2))
    optimizer = scale_by_muon(momentum=0.9, scale="original", dtype="float32")
    _, state = optimizer.update(g1, optimizer.init(g1))
    updates, state = optimizer.update(g2, state)
    m = 0.9 * 0.1 * g1["kernel"] + 0.1 * g2["kernel"]
    np.testing.assert_allclose(state.momentum["kernel"], m, atol=1e-6)
    expected = polar((0.9 * m + 0.1 * g2["kernel"]).astype(np.float64)) * np.sqrt(8 / 5)
    np.testing.assert_allclose(updates["kernel"], expected, atol=1e-5)
    assert int(state.count) == 2


def test_leaves_for_adamw_pass_through_the_direction_unchanged():
    gradient = {"kernel": jnp.eye(3), "bias": jnp.full(3, 7.0)}
    updates, _ = scale_by_muon().update(gradient, scale_by_muon().init(gradient))
    assert updates["bias"] is gradient["bias"]


def test_own_optimizer_for_the_rest():
    params = {"kernel": jnp.eye(3), "bias": jnp.full(3, 7.0)}
    optimizer = muon(0.1, aux=optax.sgd(0.5))
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["bias"], -3.5)


def decoder_like(side, layers=12):
    """The matrices of twelve layers: four square and two wide for each."""
    rng = np.random.default_rng(0)

    def kernel(*shape):
        return {"kernel": jnp.asarray(rng.standard_normal(shape), jnp.float32)}

    def layer():
        names = ("query", "key", "value", "output")
        return {**{n: kernel(side, side) for n in names}, "up": kernel(side, 4 * side), "down": kernel(4 * side, side)}

    return {f"layer{i}": layer() for i in range(layers)}


def count_operations(optimizer, params):
    def step(gradient, state, params):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state, started = optimizer.init(params), time.perf_counter()
    lowered = jax.jit(step).lower(params, state, params)
    traced = time.perf_counter() - started
    return len(re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = ", lowered.compile().as_text(), re.MULTILINE)), traced


def test_operations_beside_optax():
    """G3: 72 matrices of two shapes are two stacks, not 72 iterations."""
    params = decoder_like(8)
    ours, our_time = count_operations(muon(0.1), params)
    theirs, their_time = count_operations(optax.contrib.muon(0.1, weight_decay=0.1), params)
    print(f"operations {ours} and {theirs}; traced in {our_time:.2f} and {their_time:.2f} s")
    assert ours <= theirs / 5


def test_products_do_not_grow_with_the_number_of_layers():
    texts = [
        jax.jit(scale_by_muon().update).lower(p, scale_by_muon().init(p)).as_text()
        for p in (decoder_like(8, 2), decoder_like(8, 6))
    ]
    few, many = (text.count("stablehlo.dot_general") for text in texts)
    assert few == many == 2 * 5 * 3


BAD = {
    "learning_rate": ["0.1", None, -0.1, float("nan"), True, [0.1], np.zeros(2, np.float32)],
    "momentum": [1.0, -0.1, "0.9", None, True],
    "nesterov": [1, None, "yes"],
    "schedule": ["me", None, 5],
    "dtype": ["int8", "half-ish", 3],
    "method": ["fast", None, 1],
    "kernels": ["triton", None],
    "scale": ["rms", None, 0.2],
    "weight_decay": [-0.1, "0.1", float("inf"), True],
    "cautious": [1, None],
    "second_moment": ["adam", 1],
    "second_moment_decay": [1.0, -0.5, "x"],
    "radius": ["ball", 1.0],
    "aux": ["adamw", optax.adamw],
    "aux_weight_decay": [-0.1, "0.1"],
    "mesh": ["data", 8],
    "sharding": [PartitionSpec()],
    "max_stack_bytes": [0, 1.5, "all"],
}


@pytest.mark.parametrize("argument", BAD)
def test_malformed_arguments(argument):
    for value in BAD[argument]:
        with pytest.raises(ValueError, match=r"^(muon|scale_by_muon|decay_weights|orthogonalize): "):
            muon(**{"learning_rate": 0.1, argument: value})


def test_arguments_that_contradict_each_other():
    with pytest.raises(ValueError, match="muon: aux_learning_rate is given; expected none beside aux"):
        muon(0.1, aux=optax.sgd(0.1), aux_learning_rate=0.1)
    with pytest.raises(ValueError, match="muon: aux_weight_decay is given; expected none beside aux"):
        muon(0.1, aux=optax.sgd(0.1), aux_weight_decay=0.0)
    for extra in ({"weight_decay": 0.1}, {"cautious": True}):
        with pytest.raises(ValueError, match="muon: weight_decay or cautious is given"):
            muon(0.1, radius="hyperball", **extra)


def test_malformed_calls_of_update():
    params = {"kernel": jnp.ones((3, 4))}
    with pytest.raises(ValueError, match=r"muon: routes of kernel \(3, 4\) has 2 axes, and .* names others"):
        muon(0.1, routes=MatrixAxes(0, 2)).init(params)
    with pytest.raises(ValueError, match="muon: routes is no tree for these parameters"):
        muon(0.1, routes={"other": "adamw"}).init(params)
    with pytest.raises(ValueError, match="muon: routes of kernel is 'sgd'"):
        muon(0.1, routes="sgd").init(params)
    with pytest.raises(ValueError, match="params of kernel has dtype int32; expected a floating dtype"):
        muon(0.1).init({"kernel": jnp.ones((3, 4), jnp.int32)})
    with pytest.raises(ValueError, match="decay_weights: params is None"):
        muon(0.1).update(params, muon(0.1).init(params))
    for value in (0.0, -1.0, float("nan"), "1"):
        with pytest.raises(ValueError, match=r"scale_by_muon: scale\(3, 4\) is "):
            scale_by_muon(scale=lambda i, o, v=value: v).update(params, scale_by_muon().init(params))


def test_the_stack_is_what_orthogonalize_gives_for_each_matrix():
    """No matrix is mixed with its neighbours, whatever the group it is in."""
    rng = np.random.default_rng(5)
    gradient = {f"w{i}": rng.standard_normal((4, 6) if i % 2 else (6, 4)).astype(np.float32) for i in range(5)}
    optimizer = scale_by_muon(scale=lambda i, o: 1.0, dtype="float32", momentum=0.0)
    updates, _ = optimizer.update(gradient, optimizer.init(gradient))
    for name, g in gradient.items():
        np.testing.assert_allclose(updates[name], orthogonalize(g, dtype="float32"), atol=1e-5)
