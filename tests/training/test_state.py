"""The plain training state: its step, its average, and steps that are skipped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiv.training import create_state, ema_decay, ema_update, make_train_step


def loss_fn(params, batch, key):
    noise = 0.1 * jax.random.normal(key, batch.shape)
    return jnp.mean((params["w"] * (batch + noise) - 1.0) ** 2), {"mean": jnp.mean(batch)}


def start(optimizer, dtype=jnp.float32):
    return create_state({"w": jnp.full((3,), 0.5, dtype)}, optimizer, jax.random.key(7))


def batches(num):
    return np.random.default_rng(0).standard_normal((num, 4, 3)).astype(np.float32)


def test_step_is_the_plain_update():
    optimizer = optax.sgd(0.1)
    step = make_train_step(loss_fn, optimizer, decay=0.9)
    state, params, ema = start(optimizer), {"w": jnp.full(3, 0.5)}, np.full(3, 0.5)
    for t, batch in enumerate(batches(3)):
        key = jax.random.fold_in(jax.random.key(7), t)
        (loss, _), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params, batch, key)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradient)
        d = min(0.9, (1 + t) / (10 + t))
        ema = d * ema + (1 - d) * np.asarray(params["w"])
        state, metrics = step(state, batch)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-6)
        np.testing.assert_allclose(metrics["gradient_norm"], np.linalg.norm(gradient["w"]), rtol=1e-5)
        np.testing.assert_allclose(metrics["mean"], batch.mean(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(state.params["w"], params["w"], rtol=1e-6)
    np.testing.assert_allclose(state.ema["w"], ema, rtol=1e-6)
    assert state.step == 3 and state.skipped == 0


def test_several_steps_per_call_are_the_same_steps():
    optimizer, data = optax.adam(0.1), batches(4)
    one, four = make_train_step(loss_fn, optimizer), make_train_step(loss_fn, optimizer, steps_per_call=4)
    single, losses = start(optimizer), []
    for batch in data:
        single, metrics = one(single, batch)
        losses.append(metrics["loss"])
    scanned, metrics = four(start(optimizer), data)
    np.testing.assert_allclose(metrics["loss"], losses, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(scanned._replace(key=0)), jax.tree.leaves(single._replace(key=0)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_non_finite_steps_change_nothing_and_are_counted():
    optimizer = optax.adam(0.1)
    step = make_train_step(loss_fn, optimizer)
    good = batches(3)
    bad = good[1].copy()
    bad[0, 0] = np.nan
    state, _ = step(start(optimizer), good[0])
    before = jax.tree.map(np.array, (state.params, state.ema, state.optimizer_state))
    state, metrics = step(state, bad)
    assert metrics["skipped"] == 1 and np.isnan(metrics["loss"]) and state.step == 2
    jax.tree.map(np.testing.assert_array_equal, (state.params, state.ema, state.optimizer_state), before)
    state, metrics = step(state, good[2])
    assert metrics["skipped"] == 1 and np.isfinite(state.params["w"]).all()
    assert not np.array_equal(state.params["w"], before[0]["w"])


def test_average_of_low_precision_parameters_is_float32():
    state = start(optax.sgd(0.1), jnp.bfloat16)
    assert state.ema["w"].dtype == jnp.float32
    average = ema_update(state.ema, {"w": jnp.full(3, 1.5, jnp.bfloat16)}, decay=0.999, step=10**6)
    np.testing.assert_allclose(average["w"], 0.5 + 0.001, rtol=1e-6)


def test_state_owns_its_buffers():
    """A donated step must not eat what the caller still holds."""
    params, key, optimizer = {"w": jnp.full(3, 0.5)}, jax.random.key(7), optax.sgd(0.1)
    make_train_step(loss_fn, optimizer)(create_state(params, optimizer, key), batches(1)[0])
    np.testing.assert_array_equal(params["w"], 0.5)
    assert jax.random.key_data(key).shape == (2,)


@pytest.mark.parametrize(("step", "expected"), [(0, 0.1), (9, 10 / 19), (10**6, 0.99)])
def test_average_ramps_up(step, expected):
    average = ema_update({"w": jnp.ones(1)}, {"w": jnp.zeros(1)}, decay=0.99, step=step)
    np.testing.assert_allclose(average["w"], expected, rtol=1e-6)


def test_half_life():
    assert ema_decay(1.0) == 0.5 and ema_decay(100.0) ** 100 == pytest.approx(0.5)


def test_bad_arguments():
    with pytest.raises(ValueError, match="half_life is 0"):
        ema_decay(0.0)
    with pytest.raises(ValueError, match="decay is 1.5"):
        ema_update({}, {}, decay=1.5, step=0)
    with pytest.raises(ValueError, match="steps_per_call is 0"):
        make_train_step(loss_fn, optax.sgd(0.1), steps_per_call=0)
