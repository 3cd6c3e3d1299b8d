"""All betas and seeds of a method in one program: an epoch is a scan over its batches under two vmaps."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.bottleneck_regression.methods import METHODS, Widths
from experiments.bottleneck_regression.model import Model
from experiments.bottleneck_regression.splits import Part
from jaxdiv.typing import Array, PRNGKey, PyTree


class State(NamedTuple):
    """Of one model; all leaves gain the axes [betas, seeds]."""

    params: PyTree
    opt_state: Any
    best_params: PyTree
    """Of the epoch with the least validation loss, or RMSE, so far."""
    best_value: Array
    best_epoch: Array


class Fit(NamedTuple):
    """What training gives for [betas, seeds]."""

    params: PyTree
    epoch: np.ndarray
    """The chosen epoch, counted from 1."""
    losses: np.ndarray
    """``[epochs, betas, seeds]`` mean training loss of each epoch."""
    validation_losses: np.ndarray
    """The same on validation rows, after the epoch."""
    validation_rmse: np.ndarray
    """The same shape, of the prediction from the mean representation."""


class Trainer:
    """Trains one method on stacked splits. It is given training and validation rows, and never sees a test set."""

    def __init__(
        self,
        method: str,
        *,
        width: int = 128,
        std: float = 0.1,
        widths: Widths | None = None,
        batch_size: int = 128,
        steps: int = 600,
        learning_rate: float = 1e-3,
        select: str = "rmse",
    ):
        """Adam with a rate that falls to 0 as a cosine over at least ``steps`` steps, in whole epochs."""
        self.entry, self.widths = METHODS[method], widths or Widths()
        self.model = Model(width=width, noise=self.entry.noise, std=std)
        self.batch_size, self.steps, self.learning_rate = batch_size, steps, learning_rate
        self.select = select

    def epochs(self, rows: int) -> int:
        """How many epochs so many training rows get."""
        return -(-self.steps // max(1, rows // self.batch_size))

    def loss(self, params: PyTree, x: Array, y: Array, beta: Array, key: PRNGKey) -> Array:
        """The method's loss of a batch, with noise drawn."""
        return self.entry.loss(self.model.apply(params, x, key), x, y, beta, self.widths).loss

    def fit(
        self,
        train: Part,
        validation: Part,
        *,
        betas: Any,
        keys: PRNGKey,
        progress: Callable[[int, int, float], None] = lambda epoch, epochs, loss: None,
    ) -> Fit:
        """Every beta on every seed's rows.

        The models of one seed share their first weights, batches and noise, so that they differ by beta alone.

        Args:
            train: ``[seeds, N, d]`` and ``[seeds, N]``.
            validation: the same of other rows.
            betas: ``[betas]``.
            keys: ``[seeds]`` typed keys.
            progress: called after each epoch with its number, their number and the mean validation loss.
        """
        betas = jnp.asarray(betas, jnp.float32)
        train, validation = jax.tree.map(jnp.asarray, (train, validation))
        epochs = self.epochs(train.y.shape[1])
        optimizer = optax.adam(optax.cosine_decay_schedule(self.learning_rate, epochs * self._steps(train)))
        dim = train.x.shape[2]

        def start(key):
            params = self.model.init(jax.random.fold_in(key, 0), dim)
            return State(params, optimizer.init(params), params, jnp.float32(jnp.inf), jnp.int32(0))

        state = jax.jit(jax.vmap(start))(keys)
        # A copy for each beta, and no array twice: the program writes the next state over this one.
        state = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], len(betas), axis=0), state)
        axes = (0, 0, 0, None, 0, None), (0, None, None, 0, None, None)
        advance = jax.jit(_over_both(functools.partial(self._epoch, optimizer), *axes), donate_argnums=0)
        history = []
        for epoch in range(1, epochs + 1):
            state, values = advance(state, train, validation, betas, keys, jnp.int32(epoch))
            history.append(jax.device_get(values))
            progress(epoch, epochs, float(history[-1][1].mean()))
        return Fit(state.best_params, np.asarray(state.best_epoch), *map(np.stack, zip(*history, strict=True)))

    def _steps(self, train: Part) -> int:
        return max(1, train.y.shape[-1] // self.batch_size)

    def _epoch(self, optimizer, state, train, validation, beta, key, epoch):
        """One pass of one model over its rows in a new order; rows that fill no batch wait for another epoch."""
        order_key, noise_key = jax.random.split(jax.random.fold_in(key, epoch))
        steps, size = self._steps(train), min(self.batch_size, train.y.shape[0])
        order = jax.random.permutation(order_key, train.y.shape[0])[: steps * size].reshape(steps, size)

        def step(carry, batch):
            params, opt_state = carry
            rows, step_key = batch
            loss, gradient = jax.value_and_grad(self.loss)(params, train.x[rows], train.y[rows], beta, step_key)
            updates, opt_state = optimizer.update(gradient, opt_state)
            return (optax.apply_updates(params, updates), opt_state), loss

        carry = (state.params, state.opt_state)
        (params, opt_state), losses = jax.lax.scan(step, carry, (order, jax.random.split(noise_key, steps)))
        loss = self._validation_loss(params, validation, beta, jax.random.fold_in(key, 0))
        rmse = jnp.sqrt(jnp.mean(jnp.square(self.model.predict(params, validation.x) - validation.y)))
        value = loss if self.select == "loss" else rmse
        better = value < state.best_value
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, state.best_params)
        best_value, best_epoch = jnp.where(better, value, state.best_value), jnp.where(better, epoch, state.best_epoch)
        return State(params, opt_state, best, best_value, best_epoch), (jnp.mean(losses), loss, rmse)

    def _validation_loss(self, params, validation, beta, key):
        """In batches of the training's size, on which the pairwise rates depend, with the same noise at each epoch."""
        rows = validation.y.shape[0]
        size = min(self.batch_size, rows)
        count = rows // size
        x, y = (array[: count * size].reshape(count, size, *array.shape[1:]) for array in validation)
        losses = jax.lax.map(lambda b: self.loss(params, b[0], b[1], beta, b[2]), (x, y, jax.random.split(key, count)))
        return jnp.mean(losses)


def _over_both(fn, seed_axes, beta_axes):
    """Over seeds inside, over betas outside."""
    return jax.vmap(jax.vmap(fn, in_axes=seed_axes), in_axes=beta_axes)
