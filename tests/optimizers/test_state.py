"""Muon's state: what optax's wrappers and a checkpoint make of it, and that it holds no setting."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiv.optimizers import MuonState, muon, scale_by_muon
from jaxdiv.training import restore_checkpoint, save_checkpoint


def make_params():
    rng = np.random.default_rng(1)
    return {
        "embed": jnp.asarray(rng.standard_normal((7, 4)), jnp.float32),
        "mlp": {
            "up": {"kernel": jnp.asarray(rng.standard_normal((4, 9)), jnp.float32), "bias": jnp.zeros(9)},
            "down": {"kernel": jnp.asarray(rng.standard_normal((9, 4)), jnp.float32)},
        },
    }


def gradients(step):
    rng = np.random.default_rng(100 + step)
    return jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), jnp.float32), make_params())


def run(optimizer, params, state, steps, first=0):
    update = jax.jit(optimizer.update)
    for step in range(first, first + steps):
        updates, state = update(gradients(step), state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def same(a, b, atol=0.0):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=atol)


OPTIONS = {"dtype": "float32", "second_moment": "normuon"}


def test_the_state_holds_counts_and_moments_and_nothing_else():
    params = make_params()
    optimizer = muon(0.1, **OPTIONS)
    _, state = run(optimizer, params, optimizer.init(params), 2)
    for leaf in jax.tree.leaves(state):
        assert (leaf.dtype == jnp.int32 and leaf.shape == () and int(leaf) == 2) or leaf.dtype == jnp.float32
    other = muon(0.3, momentum=0.5, schedule="jordan", scale="spectral", nesterov=False, weight_decay=0.0)
    assert jax.tree.structure(muon(0.1).init(params)) == jax.tree.structure(other.init(params))
    state = scale_by_muon().init(params)
    assert isinstance(state, MuonState) and isinstance(state.momentum["embed"], optax.MaskedNode)


@pytest.mark.parametrize("radius", [None, "hyperball"])
def test_a_checkpoint_continues_bit_for_bit(tmp_path, radius):
    params = make_params()
    optimizer = muon(lambda t: 0.1 / (1 + t), radius=radius, **OPTIONS)
    straight = run(optimizer, params, optimizer.init(params), 6)
    half = run(optimizer, params, optimizer.init(params), 3)
    save_checkpoint(tmp_path, 3, half)
    fresh = (jax.tree.map(jnp.zeros_like, params), optimizer.init(params))
    restored = restore_checkpoint(tmp_path, fresh).state
    assert isinstance(restored[1].inner_states["muon"].inner_state[0], MuonState)
    same(run(optimizer, *restored, 3, first=3), straight)


def test_a_changed_configuration_is_obeyed_after_restoring(tmp_path):
    """optax keeps its coefficients in the state, so that a checkpoint would override what a new run asks for."""
    params = make_params()
    before = muon(0.1, momentum=0.95, schedule="you", weight_decay=0.1, **OPTIONS)
    after = muon(0.02, momentum=0.5, schedule="jordan", weight_decay=0.7, scale="original", nesterov=False, **OPTIONS)
    middle = run(before, params, before.init(params), 2)
    save_checkpoint(tmp_path, 2, middle)
    restored = restore_checkpoint(tmp_path, (params, after.init(params))).state
    direct, stale = run(after, *middle, 2, first=2), run(before, *middle, 2, first=2)
    same(run(after, *restored, 2, first=2), direct)
    assert float(jnp.abs(direct[0]["mlp"]["up"]["kernel"] - stale[0]["mlp"]["up"]["kernel"]).max()) > 1e-2


@pytest.mark.parametrize(
    "changed",
    [
        {"learning_rate": lambda t: 0.1 / (1 + t)},
        {"momentum": lambda t: 0.9},
        {"aux_learning_rate": lambda t: 0.01},
        {"radius": "hyperball"},
        {"cautious": True, "weight_decay": 0.0, "aux_weight_decay": 0.1},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_number_is_restored_into_a_schedule_and_back(tmp_path, changed):
    """No setting but second_moment, routes and aux decides which leaves a checkpoint has."""
    params = make_params()
    options = {"learning_rate": 0.1, "dtype": "float32"}
    number, other = muon(**options), muon(**{**options, **changed})
    for before, after in ((number, other), (other, number)):
        middle = run(before, params, before.init(params), 2)
        save_checkpoint(tmp_path, 2, middle)
        restored = restore_checkpoint(tmp_path, (params, after.init(params))).state
        same(restored, middle)
        same(run(after, *restored, 1, first=2), run(after, *middle, 1, first=2))
    counts = [int(x) for x in jax.tree.leaves(middle[1]) if x.dtype == jnp.int32]
    assert counts == [2] * 4, "Adam's, and the rate's of both; Muon's own"


def test_a_state_without_its_second_moment_is_refused_by_name(tmp_path):
    params = make_params()
    plain, normuon = muon(0.1), muon(0.1, second_moment="normuon")
    save_checkpoint(tmp_path, 1, plain.init(params))
    with pytest.raises(ValueError, match=r"second_moment\['mlp'\]\['up'\]\['kernel'\].*: stored nothing, asked"):
        restore_checkpoint(tmp_path, normuon.init(params))
    with pytest.raises(ValueError, match="^scale_by_muon: state has no second moment; expected one that init made with "
                       "second_moment='normuon'"):  # fmt: skip
        normuon.update(gradients(0), plain.init(params), params)
    with pytest.raises(ValueError, match="^scale_by_muon: state has NorMuon's second moment; expected .*=None"):
        plain.update(gradients(0), normuon.init(params), params)


def test_inject_hyperparams():
    params = make_params()
    injected = optax.inject_hyperparams(muon)(learning_rate=0.1, weight_decay=0.3, momentum=lambda t: 0.9 - 0.1 * t)
    plain = muon(0.1, weight_decay=0.3, momentum=lambda t: 0.9 - 0.1 * t)
    got, state = run(injected, params, injected.init(params), 2)
    expected, _ = run(plain, params, plain.init(params), 2)
    same(got, expected, atol=1e-6)
    assert {"learning_rate", "weight_decay", "momentum"} <= set(state.hyperparams)
    state.hyperparams["learning_rate"] = jnp.float32(0.0)
    still, _ = run(injected, got, state, 1, first=2)
    same(still, got)


def test_inject_hyperparams_with_the_hyperball_and_static_functions():
    params = make_params()
    injected = optax.inject_hyperparams(muon, static_args=("scale", "max_stack_bytes"))(
        learning_rate=lambda t: 0.1, radius="hyperball", scale=lambda i, o: 1.0, max_stack_bytes=64
    )
    plain = muon(0.1, radius="hyperball")
    got, expected = (run(o, params, o.init(params), 2)[0] for o in (injected, plain))
    same(got, expected, atol=0.02)


def test_multi_steps_is_the_mean_gradient():
    params = make_params()
    optimizer = muon(0.1, dtype="float32")
    many = optax.MultiSteps(optimizer, every_k_schedule=3)
    got, state = run(many, params, many.init(params), 3)
    mean = jax.tree.map(lambda *g: sum(g) / 3, *(gradients(step) for step in range(3)))
    updates, _ = jax.jit(optimizer.update)(mean, optimizer.init(params), params)
    same(got, optax.apply_updates(params, updates), atol=1e-5)
    assert int(state.gradient_step) == 1


def test_masked_and_chain():
    params = make_params()
    mask = {"embed": False, "mlp": True}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.masked(muon(0.1, dtype="float32"), mask))
    updates, _ = optimizer.update(gradients(0), optimizer.init(params), params)
    alone = muon(0.1, dtype="float32")
    clipped, _ = optax.clip_by_global_norm(1.0).update(gradients(0), optax.EmptyState())
    expected, _ = alone.update(clipped, alone.init(params), params)
    same(updates["mlp"], expected["mlp"], atol=1e-6)
    np.testing.assert_array_equal(updates["embed"], clipped["embed"])


def test_masked_with_a_tree_of_routes():
    params = make_params()
    routes = {
        "embed": "adamw",
        "mlp": {"up": {"kernel": optax.contrib.MuonDimensionNumbers(), "bias": None}, "down": None},
    }
    optimizer = optax.masked(muon(0.1, routes=routes), {"embed": True, "mlp": {"up": True, "down": False}})
    updates, state = jax.jit(optimizer.update)(gradients(0), optimizer.init(params), params)
    np.testing.assert_array_equal(updates["mlp"]["down"]["kernel"], gradients(0)["mlp"]["down"]["kernel"])
    assert float(jnp.abs(updates["mlp"]["up"]["kernel"]).max()) < 0.3


def test_extra_arguments_and_apply_if_finite():
    params = make_params()
    optimizer = optax.apply_if_finite(muon(0.1), max_consecutive_errors=2)
    bad = jax.tree.map(lambda g: jnp.full_like(g, jnp.nan), gradients(0))
    updates, state = jax.jit(optimizer.update)(bad, optimizer.init(params), params, value=jnp.float32(1.0))
    assert not any(np.any(u) for u in jax.tree.leaves(updates)) and int(state.notfinite_count) == 1


def test_donated_buffers_and_scan():
    params = make_params()
    optimizer = muon(0.1, dtype="float32")
    expected, _ = run(optimizer, params, optimizer.init(params), 3)

    def step(carry, gradient):
        params, state = carry
        updates, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, updates), state), None

    stacked = jax.tree.map(lambda *g: jnp.stack(g), *(gradients(step) for step in range(3)))
    carry = jax.tree.map(jnp.copy, (params, optimizer.init(params)))
    got = jax.jit(lambda carry, g: jax.lax.scan(step, carry, g)[0], donate_argnums=0)(carry, stacked)
    same(got[0], expected, atol=1e-5)


def test_vmap_over_seeds_is_each_seed():
    """An ensemble: one more axis in front of every leaf, and in front of every stack."""
    params = make_params()
    optimizer = muon(0.1, dtype="float32")
    pair = jax.tree.map(lambda p: jnp.stack([p, 2.0 * p]), params)
    grads = jax.tree.map(lambda a, b: jnp.stack([a, b]), gradients(0), gradients(1))
    updates, _ = jax.jit(jax.vmap(optimizer.update))(grads, jax.vmap(optimizer.init)(pair), pair)
    single, _ = jax.jit(optimizer.update)(gradients(0), optimizer.init(params), params)
    same(jax.tree.map(lambda u: u[0], updates), single, atol=1e-5)
