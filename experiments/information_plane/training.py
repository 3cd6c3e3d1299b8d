"""Trains the networks of all seeds side by side and stops at the epochs of the snapshots."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.information_plane.models import Model
from jaxdiv.typing import Array, PyTree

TRAIN_SHARE = 0.8


class Snapshot(NamedTuple):
    """All seeds' networks after some epochs; S seeds lead."""

    epoch: int
    layers: list[Array]
    """``[S, N, ...]`` each, of all N inputs."""
    loss: Array
    """``[S]``, cross-entropy in nats on the inputs trained on."""
    train_accuracy: Array
    """``[S]``."""
    test_accuracy: Array
    """``[S]``, on the fifth that is held out."""


class _State(NamedTuple):
    key: Array
    split: Array
    """``[N]``, first the rows to train on."""
    params: PyTree
    moments: PyTree


def snapshot_epochs(epochs: int, count: int) -> list[int]:
    """About ``count`` epochs: 0, then 1 to ``epochs`` in equal ratios, each once.

    >>> snapshot_epochs(100, 6)
    [0, 1, 3, 10, 32, 100]
    """
    return sorted({0, *(int(epoch) for epoch in np.geomspace(1, epochs, max(count - 1, 2)).round())})


def train_networks(
    model: Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    seeds: Sequence[int],
    epochs: Sequence[int],
    learning_rate: float,
    batch_size: int,
) -> Iterator[Snapshot]:
    """The networks of all seeds at each of the ascending ``epochs``; Adam at a constant rate.

    Each seed has its own weights, its own four fifths of the inputs to learn from, and its own order of them, anew in
    every epoch; inputs that fill no batch are left out of that epoch. One compilation serves all stretches.

    Args:
        model: the network.
        x: ``[N, ...]`` float32, all inputs.
        y: ``[N]`` integers.
        seeds: one number for each network.
        epochs: when to look; 0 is before training.
        learning_rate: Adam's.
        batch_size: at most four fifths of N.
    """
    inputs, labels = jnp.asarray(x), jnp.asarray(y)
    optimizer = optax.adam(learning_rate)
    num_train = int(TRAIN_SHARE * len(inputs))
    num_batches = num_train // batch_size

    def init(seed: Array) -> _State:
        weights_key, split_key, key = jax.random.split(jax.random.key(seed), 3)
        params = model.init_fn(weights_key)
        return _State(key, jax.random.permutation(split_key, len(inputs)), params, optimizer.init(params))

    def one_epoch(epoch: Array, state: _State) -> _State:
        order_key, noise_key = jax.random.split(jax.random.fold_in(state.key, epoch))
        order = jax.random.permutation(order_key, state.split[:num_train])

        def step(carry: tuple[PyTree, PyTree], batch: tuple[Array, Array]) -> tuple[tuple[PyTree, PyTree], None]:
            params, moments = carry
            rows, key = batch

            def loss_fn(params: PyTree) -> Array:
                logits = model.apply_fn(params, inputs[rows], key)[0]
                return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels[rows]))

            updates, moments = optimizer.update(jax.grad(loss_fn)(params), moments)
            return (optax.apply_updates(params, updates), moments), None

        batches = order[: num_batches * batch_size].reshape(num_batches, batch_size)
        keys = jax.random.split(noise_key, num_batches)
        (params, moments), _ = jax.lax.scan(step, (state.params, state.moments), (batches, keys))
        return state._replace(params=params, moments=moments)

    def look(state: _State, epoch: Array) -> tuple[list[Array], Array, Array, Array]:
        key = jax.random.fold_in(jax.random.fold_in(state.key, epoch), 1)
        logits, layers = model.apply_fn(state.params, inputs, key)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)[state.split]
        right = (jnp.argmax(logits, axis=1) == labels)[state.split]
        return layers, jnp.mean(losses[:num_train]), jnp.mean(right[:num_train]), jnp.mean(right[num_train:])

    def advance(state: _State, start: Array, stop: Array) -> _State:
        return jax.lax.fori_loop(start, stop, one_epoch, state)

    state = jax.jit(jax.vmap(init))(jnp.asarray(seeds))
    advance_all = jax.jit(jax.vmap(advance, in_axes=(0, None, None)))
    look_at_all = jax.jit(jax.vmap(look, in_axes=(0, None)))
    reached = 0
    for epoch in epochs:
        state, reached = advance_all(state, jnp.int32(reached), jnp.int32(epoch)), epoch
        yield Snapshot(epoch, *look_at_all(state, jnp.int32(epoch)))
