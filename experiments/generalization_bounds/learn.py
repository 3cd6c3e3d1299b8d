"""All networks of one depth and width, trained side by side in one program."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.generalization_bounds.config import Config
from experiments.generalization_bounds.digits import NUM_CLASSES, Digits
from experiments.generalization_bounds.networks import Layer, draw_noise, init_network, losses
from jaxdiv.typing import Array, PRNGKey


class Learned(NamedTuple):
    """What training leaves of a network; of G networks with an axis in front."""

    params: list[Layer]
    """The last iterate."""
    mean: list[Layer]
    """Mean of the last iterates."""
    variance: list[Layer]
    """Their variance, per parameter."""


class Group(NamedTuple):
    """Which networks stand side by side: one per seed, weight decay and draw, the draw fastest."""

    seed: np.ndarray
    """``[G]``."""
    weight_decay: np.ndarray
    """``[G]``."""
    draw: np.ndarray
    """``[G]``: which training set."""

    @classmethod
    def of(cls, config: Config) -> "Group":
        """The same networks for every depth and width."""
        axes = np.meshgrid(range(config.num_seeds), config.weight_decays, range(config.num_draws), indexing="ij")
        return cls(*(axis.reshape(-1) for axis in axes))


def learn_network(
    config: Config, images: Array, labels: Array, weight_decay: Array, key: PRNGKey, *, depth: int, width: int
) -> Learned:
    """Train one network by Adam with decoupled weight decay of the kernels.

    Args:
        config: the settings.
        images: ``[n, 64]``.
        labels: ``[n]``.
        weight_decay: a scalar.
        key: of weights, batches and noise.
        depth: hidden layers.
        width: units of each.
    """
    init_key, rows_key, train_key = jax.random.split(key, 3)
    params = init_network(init_key, inputs=images.shape[1], depth=depth, width=width, outputs=NUM_CLASSES)
    rows = jax.random.randint(rows_key, (config.steps, config.batch_size), 0, len(images))
    kernels = [Layer(True, False)] * (depth + 1)  # type: ignore[arg-type]
    optimizer = optax.chain(
        optax.scale_by_adam(),
        optax.add_decayed_weights(weight_decay, mask=kernels),
        optax.scale(-config.learning_rate),
    )
    gradient = jax.grad(lambda p, x, y, noise: jnp.mean(losses(p, x, y, noise)[0]))

    def step(carry, now):
        params, state, mean, squares = carry
        number, batch = now
        noise = draw_noise(jax.random.fold_in(train_key, number), params, config.batch_size, config.noise)
        updates, state = optimizer.update(gradient(params, images[batch], labels[batch], noise), state, params)
        params = optax.apply_updates(params, updates)
        # Welford's recursion: from sums of squares, rounding would take the small variances. Before the last
        # iterates the share is 1, which starts anew at every step.
        share = 1.0 / jnp.maximum(number - (config.steps - config.average_steps) + 1.0, 1.0)
        fresh = jax.tree.map(lambda m, p: m + share * (p - m), mean, params)
        squares = jax.tree.map(
            lambda s, p, old, new: jnp.where(share < 1.0, s + (p - old) * (p - new), 0.0), squares, params, mean, fresh
        )
        return (params, state, fresh, squares), None

    zeros = jax.tree.map(jnp.zeros_like, params)
    start = (params, optimizer.init(params), params, zeros)
    (params, _, mean, squares), _ = jax.lax.scan(step, start, (jnp.arange(config.steps), rows))
    return Learned(params, mean, jax.tree.map(lambda s: s / (config.average_steps - 1), squares))


def learn_group(config: Config, digits: Digits, *, depth: int, width: int) -> Learned:
    """`learn_network` of every member of `Group.of`, with an axis ``[G]`` in front of each leaf.

    Networks of one seed share batches and noise, so these are drawn once for all of them: noise is a good part of the
    cost of a small network.
    """
    group = Group.of(config)
    members = len(group.seed) // config.num_seeds

    def one(draw, weight_decay, key):
        images, labels = jnp.asarray(digits.train_images)[draw], jnp.asarray(digits.train_labels)[draw]
        return learn_network(config, images, labels, weight_decay, key, depth=depth, width=width)

    side_by_side = jax.vmap(jax.vmap(one, in_axes=(0, 0, None)), in_axes=(None, None, 0))
    keys = jax.random.split(jax.random.key(config.seed), config.num_seeds)
    draws, decays = jnp.asarray(group.draw[:members]), jnp.asarray(group.weight_decay[:members], jnp.float32)
    learned = jax.jit(side_by_side)(draws, decays, keys)
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), learned)
