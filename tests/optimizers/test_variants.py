"""NorMuon, hyperball and the kinds of decay, each by itself; test_transformation.py has them inside Muon."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxdiv.optimizers import (
    MatrixAxes,
    decay_weights,
    muon,
    normalize_neurons,
    scale_by_muon,
    scale_to_hyperball,
    step_on_sphere,
    to_matrices,
)
from jaxdiv.optimizers.sharding import column_sums

RNG = np.random.default_rng(7)
X = RNG.standard_normal((3, 5, 4)).astype(np.float32)
U = RNG.standard_normal((3, 5, 4)).astype(np.float32)


def norms(x):
    return np.linalg.norm(np.asarray(x, np.float64), axis=(-2, -1))


def test_neurons_get_one_size_and_the_matrix_keeps_its_norm():
    x, v = normalize_neurons(jnp.asarray(X), jnp.zeros((3, 4)), decay=0.9)
    np.testing.assert_allclose(norms(x), norms(X), rtol=1e-5)
    sizes = np.linalg.norm(x, axis=1)
    np.testing.assert_allclose(sizes, np.broadcast_to(norms(X)[:, None] / 2, sizes.shape), rtol=1e-5)
    np.testing.assert_allclose(v, 0.1 * np.mean(X.astype(np.float64) ** 2, axis=1), rtol=1e-5)


def test_neurons_over_two_steps_and_at_zero(x64):
    v = np.full((3, 4), 0.2)
    x, new = normalize_neurons(jnp.asarray(X, jnp.float64), jnp.asarray(v), decay=0.5)
    v = 0.5 * v + 0.5 * np.mean(X.astype(np.float64) ** 2, axis=1)
    expected = X / np.sqrt(v)[:, None, :]
    expected *= (norms(X) / norms(expected))[:, None, None]
    np.testing.assert_allclose(x, expected, rtol=1e-12)
    np.testing.assert_allclose(new, v, rtol=1e-12)
    zero, _ = normalize_neurons(jnp.zeros((2, 3)), jnp.zeros(3))
    assert not np.any(zero)


def test_second_moments_are_one_vector_for_each_matrix():
    params = {"kernel": jnp.asarray(X), "qkv": jnp.ones((5, 12))}
    routes = {"kernel": MatrixAxes(1, 2, batch=0), "qkv": MatrixAxes(0, 1, splits=(6, 3, 3))}
    state = scale_by_muon(routes=routes, second_moment="normuon").init(params)
    shapes = jax.tree.map(jnp.shape, state.second_moment, is_leaf=lambda x: isinstance(x, jax.Array))
    assert shapes == {"kernel": ((3, 4),), "qkv": ((1, 6), (1, 3), (1, 3))}
    assert scale_by_muon(routes=routes).init(params).second_moment is None


def test_normuon_does_not_know_its_neighbours():
    """The update of a matrix is the same alone and in a stack beside one a hundred times as large."""
    alone = {"kernel": jnp.asarray(X[0])}
    both = {"kernel": jnp.asarray(np.stack([X[0], 100 * X[1]]))}
    options = {"second_moment": "normuon", "dtype": "float32"}
    one = scale_by_muon(routes=MatrixAxes(), **options)
    two = scale_by_muon(routes=MatrixAxes(1, 2, batch=0), **options)
    a, b = one.update(alone, one.init(alone))[0], two.update(both, two.init(both))[0]
    np.testing.assert_allclose(b["kernel"][0], a["kernel"], rtol=1e-4, atol=1e-6)


def test_hyperball_keeps_the_norm_and_turns_by_the_learning_rate(x64):
    p, u = (jnp.asarray(a, jnp.float64) for a in (X, U))
    u = u - p * jnp.sum(p * u, axis=(1, 2), keepdims=True) / jnp.sum(p * p, axis=(1, 2), keepdims=True)
    new = step_on_sphere(p, u, learning_rate=0.3)
    np.testing.assert_allclose(norms(new), norms(p), rtol=1e-12)
    cosines = np.sum(np.asarray(new * p), axis=(1, 2)) / norms(p) ** 2
    np.testing.assert_allclose(cosines, 1 / np.sqrt(1 + 0.3**2), rtol=1e-12)
    np.testing.assert_allclose(step_on_sphere(p, 1e9 * u, learning_rate=0.3), new, rtol=1e-9)
    for size in (1e-22, 1e22):  # whose squares float32 does not hold
        small = step_on_sphere(jnp.asarray(p, jnp.float32), jnp.asarray(size * u, jnp.float32), learning_rate=0.3)
        np.testing.assert_allclose(small, new, rtol=1e-5, atol=1e-6)
        small = step_on_sphere(jnp.asarray(size * p, jnp.float32), jnp.asarray(u, jnp.float32), learning_rate=0.3)
        np.testing.assert_allclose(small / np.float32(size), new, rtol=1e-5, atol=1e-6)


def test_the_whole_step_is_the_one_of_each_matrix():
    """Heads, unequal splits and batch axes: the transformation sums over leaves, `step_on_sphere` over matrices."""
    rng = np.random.default_rng(8)
    routes = {"heads": MatrixAxes(2, 1, batch=0), "qkv": MatrixAxes(0, 1, splits=(6, 3, 3))}
    params, updates = (
        {
            name: jnp.asarray(rng.standard_normal((3, 5, 4) if name == "heads" else (5, 12)), jnp.float32)
            for name in routes
        }
        for _ in "pu"
    )
    optimizer = scale_to_hyperball(0.2, routes=routes)
    got = optax.apply_updates(params, optimizer.update(updates, optimizer.init(params), params)[0])
    for name, axes in routes.items():
        pairs = zip(to_matrices(params[name], axes), to_matrices(updates[name], axes), strict=True)
        each = [step_on_sphere(p, u, learning_rate=0.2) for p, u in pairs]
        for x, y in zip(to_matrices(got[name], axes), each, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_sums_over_inputs_are_each_matrix_s():
    """Shapes that a mesh does not divide, and arrays that lie whole, are summed all the same."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    axes = [MatrixAxes(1, 2, batch=0), MatrixAxes((0, 1), 2)]
    arrays, specs = [jnp.asarray(X), jnp.asarray(U)], [PartitionSpec("data"), PartitionSpec()]
    for options in ({"mesh": None, "specs": None}, {"mesh": mesh, "specs": specs}):
        first, second = column_sums(arrays, axes, **options)
        np.testing.assert_allclose(first, X.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(second, U.sum(axis=(0, 1), keepdims=True), rtol=1e-5, atol=1e-6)
    assert column_sums([], [], mesh=mesh, specs=[]) == []


def test_hyperball_with_nothing_to_turn():
    p = jnp.asarray(X)
    np.testing.assert_allclose(step_on_sphere(p, jnp.zeros_like(p), learning_rate=0.5), p, rtol=1e-6)
    assert not np.any(step_on_sphere(jnp.zeros_like(p), p, learning_rate=0.5))


def test_hyperball_in_muon_keeps_every_matrix_apart():
    params = {"kernel": jnp.asarray(X), "bias": jnp.ones(3)}
    optimizer = muon(0.1, routes={"kernel": MatrixAxes(1, 2, batch=0), "bias": None}, radius="hyperball")
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update({"kernel": jnp.asarray(U), "bias": jnp.ones(3)}, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(norms(params["kernel"]), norms(X), rtol=1e-5)
    assert float(jnp.abs(params["kernel"] - X).max()) > 0.01


def test_hyperball_follows_a_schedule():
    optimizer = scale_to_hyperball(lambda count: jnp.where(count == 0, 0.0, 1.0))
    params = {"kernel": jnp.asarray(X[0])}
    still, state = optimizer.update({"kernel": jnp.asarray(U[0])}, optimizer.init(params), params)
    moved, state = optimizer.update({"kernel": jnp.asarray(U[0])}, state, params)
    assert np.abs(still["kernel"]).max() < 1e-6 < 0.1 < np.abs(moved["kernel"]).max() and int(state.count) == 2


@pytest.mark.parametrize("cautious", [False, True])
def test_decay(cautious):
    optimizer = decay_weights(0.3, cautious=cautious)
    got, _ = optimizer.update({"w": jnp.asarray(U)}, optimizer.init(None), {"w": jnp.asarray(X)})
    where = U * X >= 0 if cautious else np.ones_like(X)
    np.testing.assert_allclose(got["w"], U + 0.3 * X * where, rtol=1e-6)


def test_a_zero_update_lets_cautious_decay_act():
    got, _ = decay_weights(0.5, cautious=True).update(jnp.zeros(2), optax.EmptyState(), jnp.array([2.0, -2.0]))
    np.testing.assert_allclose(got, [1.0, -1.0])


@pytest.mark.parametrize("mask", [{"a": True, "b": False}, lambda p: {"a": {"x": True}, "b": False}])
def test_masked_decay(mask):
    params = {"a": {"x": jnp.ones(2)}, "b": [jnp.ones(2), jnp.ones(3)]}
    zeros = jax.tree.map(jnp.zeros_like, params)
    got, _ = decay_weights(0.5, mask=mask).update(zeros, optax.EmptyState(), params)
    np.testing.assert_allclose(got["a"]["x"], 0.5)
    assert not np.any(got["b"][0]) and not np.any(got["b"][1])


def test_masked_decay_in_muon_and_for_the_rest():
    params = {"a": {"kernel": jnp.asarray(X[0])}, "b": {"kernel": jnp.asarray(X[1]), "bias": jnp.ones(4)}}
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = muon(0.1, weight_decay=0.2, aux_weight_decay=0.5, weight_decay_mask={"a": False, "b": True})
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert not np.any(updates["a"]["kernel"])
    np.testing.assert_allclose(updates["b"]["kernel"], -0.1 * 0.2 * X[1], rtol=1e-5)
    np.testing.assert_allclose(updates["b"]["bias"], -0.1 * 0.5, rtol=1e-5)


def test_decay_is_not_scaled_with_the_polar_factor():
    params = {"kernel": jnp.asarray(X[0])}
    for scale in ("match_rms", "original"):
        optimizer = muon(0.1, weight_decay=0.2, scale=scale)
        updates, _ = optimizer.update({"kernel": jnp.zeros((5, 4))}, optimizer.init(params), params)
        np.testing.assert_allclose(updates["kernel"], -0.02 * X[0], rtol=1e-5)


def test_bfloat16_is_decayed_in_float32():
    x = jnp.full(2, 1.01, jnp.bfloat16)
    got, _ = decay_weights(0.1).update(jnp.ones(2, jnp.bfloat16), optax.EmptyState(), x)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, 1 + 0.1 * np.asarray(x, np.float32), rtol=1e-6)


def test_malformed_calls():
    ones = jnp.ones((2, 3))
    for value in (-1.0, "1", None, True):
        with pytest.raises(ValueError, match="^decay_weights: weight_decay is"):
            decay_weights(value)
        with pytest.raises(ValueError, match="^step_on_sphere: learning_rate is"):
            step_on_sphere(ones, ones, learning_rate=value)
        with pytest.raises(ValueError, match="^scale_to_hyperball: learning_rate is"):
            scale_to_hyperball(value)
        with pytest.raises(ValueError, match="^normalize_neurons: decay is"):
            normalize_neurons(ones, jnp.ones(3), decay=value)
    with pytest.raises(ValueError, match="^decay_weights: cautious is 1"):
        decay_weights(0.1, cautious=1)
    for mask in (1.0, {"b": True}, "yes"):
        with pytest.raises(ValueError, match="^decay_weights: mask"):
            decay_weights(0.1, mask=mask).update({"a": ones}, optax.EmptyState(), {"a": ones})
    with pytest.raises(ValueError, match="^scale_to_hyperball: params is None"):
        scale_to_hyperball(0.1).update({"kernel": ones}, scale_to_hyperball(0.1).init(None))
    with pytest.raises(ValueError, match="^scale_to_hyperball: mesh is"):
        scale_to_hyperball(0.1, mesh="data")
    with pytest.raises(ValueError, match="^scale_to_hyperball: mesh is None; expected the mesh that sharding refers"):
        scale_to_hyperball(0.1, sharding=PartitionSpec("data"))
    with pytest.raises(ValueError, match=r"^normalize_neurons: second_moment has shape \(2,\); expected shape \(3\)"):
        normalize_neurons(ones, jnp.ones(2))
    with pytest.raises(ValueError, match="^step_on_sphere: updates has shape"):
        step_on_sphere(ones, jnp.ones((2, 2)), learning_rate=0.1)
    for value in (None, "x", jnp.ones((2, 2), jnp.int32)):
        with pytest.raises(ValueError, match="^(normalize_neurons: matrices|step_on_sphere: matrices) "):
            normalize_neurons(value, jnp.ones(2))
        with pytest.raises(ValueError, match="^step_on_sphere: matrices "):
            step_on_sphere(value, ones, learning_rate=0.1)
