"""The plain training state (one network, its average, its optimizer) and its jitted step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiv.checks import check_range
from jaxdiv.typing import Array, PRNGKey, PyTree

LossFn = Callable[[PyTree, PyTree, PRNGKey], tuple[Array, dict[str, Any]]]


class TrainState(NamedTuple):
    """Everything a step changes; a pytree that checkpoints and shardings treat as any other."""

    step: Array
    """int32 scalar: steps done, skipped ones included; the data position and the per-step key follow from it."""
    params: PyTree
    ema: PyTree
    """float32 exponential moving average of ``params``."""
    optimizer_state: PyTree
    key: PRNGKey
    """Typed key of the run; it never changes, step t uses ``fold_in(key, t)``."""
    skipped: Array
    """int32 scalar: steps whose loss or gradient was not finite and that changed nothing."""


def create_state(params: PyTree, optimizer: optax.GradientTransformation, key: PRNGKey) -> TrainState:
    """The state before the first step; the average starts as a copy of the parameters."""
    average = jax.tree.map(lambda p: jnp.array(p, jnp.float32), params)
    # The optimizer may keep references to params; a step donates its state, so each leaf needs a buffer of its own.
    optimizer_state = jax.tree.map(jnp.copy, optimizer.init(params))
    params, key = jax.tree.map(jnp.copy, params), jax.random.clone(key)
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, average, optimizer_state, key, jnp.copy(zero))


def ema_decay(half_life: float) -> float:
    """The decay per step that halves the weight of a parameter value after ``half_life`` steps.

    >>> round(ema_decay(10.0) ** 10, 6)
    0.5
    """
    check_range("ema_decay", "half_life", half_life, 0.0, open_low=True)
    return 0.5 ** (1.0 / half_life)


def ema_update(ema: PyTree, params: PyTree, *, decay: float, step: Array | int) -> PyTree:
    """One step of the average: ``d ema + (1 - d) params`` with ``d = min(decay, (1 + step) / (10 + step))``.

    The ramp keeps the initial parameters from dominating: after t steps the average looks back over about t / 9 steps
    until ``decay`` is reached.

    Args:
        ema: float32 pytree.
        params: pytree of the same structure, any floating dtype.
        decay: in [0, 1].
        step: number of updates made before this one.
    """
    check_range("ema_update", "decay", decay, 0.0, 1.0)
    step = jnp.asarray(step, jnp.float32)
    d = jnp.minimum(jnp.float32(decay), (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: d * e + (1.0 - d) * p.astype(jnp.float32), ema, params)


def make_train_step(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, *, decay: float = 0.999, steps_per_call: int = 1
) -> Callable[[TrainState, PyTree], tuple[TrainState, dict[str, Array]]]:
    """A jitted ``(state, batch) -> (state, metrics)`` that minimises ``loss_fn``; the state's buffers are donated.

    A step whose loss or gradient has a non-finite value leaves parameters, average and optimizer as they were and is
    counted; metrics hold ``loss``, ``gradient_norm``, ``skipped`` (count so far) and what ``loss_fn`` returns.

    Args:
        loss_fn: ``(params, batch, key) -> (loss, metrics)``, the loss a scalar mean over the batch.
        optimizer: any optax transformation.
        decay: of the moving average, see ``ema_update`` and ``ema_decay``.
        steps_per_call: above 1 the batch holds that many batches (or fewer) along its first axis and the metrics get
            such an axis; the steps run in one ``lax.scan``.
    """
    check_range("make_train_step", "steps_per_call", steps_per_call, 1)

    def one(state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(state.key, state.step)
        (loss, metrics), gradient = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch, key)
        norm = optax.tree.norm(gradient)
        finite = jnp.isfinite(loss) & jnp.all(jnp.stack([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradient)]))
        updates, optimizer_state = optimizer.update(gradient, state.optimizer_state, state.params)
        params = optax.apply_updates(state.params, updates)
        done = (params, ema_update(state.ema, params, decay=decay, step=state.step), optimizer_state)
        before = (state.params, state.ema, state.optimizer_state)
        params, ema, optimizer_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), done, before)
        skipped = state.skipped + (1 - finite.astype(jnp.int32))
        state = TrainState(state.step + 1, params, ema, optimizer_state, state.key, skipped)
        return state, {**metrics, "loss": loss, "gradient_norm": norm, "skipped": skipped}

    if steps_per_call == 1:
        return jax.jit(one, donate_argnums=0)
    return jax.jit(lambda state, batches: jax.lax.scan(one, state, batches), donate_argnums=0)
