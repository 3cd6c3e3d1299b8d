"""What is measured on a trained network: its gap, the terms of the bounds, and what they compete with."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.generalization_bounds.config import Config
from experiments.generalization_bounds.digits import Digits
from experiments.generalization_bounds.learn import Group, Learned
from experiments.generalization_bounds.networks import Layer, apply_network, draw_noise, expected_losses
from jaxdiv.information import encoder_information, posterior_information
from jaxdiv.typing import Array, PRNGKey

VARIANCE_FLOOR = 1e-8  # of the posterior, for its logarithm; at the default rate all variances are above it


def layer_information(
    params: list[Layer], images: Array, labels: Array, *, key: PRNGKey, scale: float
) -> dict[str, Array]:
    """Bounds of I(X; Z_l | Y, E) ``[depth]`` per hidden layer, E the noise of the layers before l.

    One draw of E, which is the same for all images. E is independent of X and Y, so that I(X; Z_l | Y, E) is at least
    I(X; Z_l | Y), with equality at l = 1; given E, Z_l is normal. "lower" is thus a lower bound of the first only.

    Args:
        params: of the network.
        images: ``[n, d]``, the training set.
        labels: ``[n]``.
        key: of E and of the draws of Z_l.
        scale: the noise's standard deviation.
    """
    shared_key, *keys = jax.random.split(key, len(params))
    _, means = apply_network(params, images, draw_noise(shared_key, params, 1, scale))
    log_variances = jnp.full(means.shape[1:], 2.0 * np.log(scale))

    def both(mean_and_key):
        mean, k = mean_and_key
        lower, upper = (
            encoder_information(mean, log_variances, labels, key=k, bound=bound) for bound in ("lower", "upper")
        )
        return {"lower": lower.value, "upper": upper.value, "ceiling": lower.ceiling}

    return jax.lax.map(both, (means, jnp.stack(keys)))


def baselines(params: list[Layer]) -> dict[str, Array]:
    """Scalars of the weights that any study of gaps has to beat; biases count in none of the norms.

    - "squared weights": sum_l |W_l|_F^2,
    - "log Frobenius product" and "log spectral product": sum_l log |W_l|, in these norms,
    - "log path norm": log of the sum, over all paths from an input to an output, of the product of their squared
      weights,
    - "parameters": how many, with biases.

    Args:
        params: of the network.
    """
    kernels = [layer.kernel for layer in params]
    squares = [jnp.square(kernel) for kernel in kernels]
    paths, log_scale = jnp.ones(len(kernels[0])), jnp.zeros(())
    for square in squares:  # rescaled on the way: deep products would leave float32
        paths = paths @ square
        log_scale, paths = log_scale + jnp.log(jnp.sum(paths)), paths / jnp.sum(paths)
    frobenius = jnp.stack([jnp.sum(square) for square in squares])
    spectral = jnp.stack([jnp.linalg.norm(kernel, 2) for kernel in kernels])
    return {
        "squared weights": jnp.sum(frobenius),
        "log Frobenius product": jnp.sum(jnp.log(frobenius)) / 2.0,
        "log spectral product": jnp.sum(jnp.log(spectral)),
        "log path norm": log_scale,
        "parameters": jnp.asarray(sum(leaf.size for leaf in jax.tree.leaves(params)), jnp.float32),
    }


def measure_group(config: Config, digits: Digits, learned: Learned) -> dict[str, Any]:
    """Losses, information and baselines of all networks of a shape, each leaf with an axis ``[G]`` in front."""
    group, num_train = Group.of(config), config.num_train
    images, labels = jnp.asarray(digits.train_images), jnp.asarray(digits.train_labels)

    def one(member):
        params, draw, key = member
        train = (images[draw], labels[draw])
        both = (jnp.concatenate(pair) for pair in zip(train, (digits.test_images, digits.test_labels), strict=True))
        keys = jax.random.split(key)
        rows = expected_losses(params, *both, key=keys[0], scale=config.noise, draws=config.noise_draws)
        found: dict[str, Any] = {}
        for name, values in zip(("loss", "error"), rows, strict=True):
            found[f"train {name}"], found[f"test {name}"] = jnp.mean(values[:num_train]), jnp.mean(values[num_train:])
        found["information"] = layer_information(params, *train, key=keys[1], scale=config.noise)
        return found | {"baselines": baselines(params)}

    keys = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), 1), config.num_seeds)
    return jax.jit(lambda members: jax.lax.map(one, members))((learned.params, group.draw, keys[group.seed]))


def parameter_information(config: Config, learned: Learned) -> dict[str, Array]:
    """I(phi_l; S) of the parameters phi_l of layers 1 to l, ``[G, depth]``, equal within the draws of a network.

    The posterior of each training set is normal with the mean and the variances of its last iterates. Of networks that
    agree in weight decay and seed, and start from the same weights, it tells how well they give their training set
    away: "parameters" at most log K, and "divergences", the mean over pairs of KL(q_i || q_j), which is above it and
    has no ceiling.
    """
    draws, depth = config.num_draws, len(learned.mean) - 1

    def flat(layers: list[Layer]) -> Array:
        leaves = [leaf.reshape(leaf.shape[0] // draws, draws, -1) for leaf in jax.tree.leaves(layers)]
        return jnp.concatenate(leaves, axis=-1)

    mean, variance = flat(learned.mean[:depth]), flat(learned.variance[:depth])
    sizes = [layer.kernel[0].size + layer.bias[0].size for layer in learned.mean[:depth]]
    layer_of = jnp.asarray(np.repeat(np.arange(depth), sizes))

    def one(member):
        means, log_variances = member

        def up_to(layer):  # parameters that all training sets share add nothing to a divergence
            seen = layer_of <= layer
            estimate = posterior_information(jnp.where(seen, means, 0.0), jnp.where(seen, log_variances, 0.0))
            return {"parameters": estimate.value, "divergences": jnp.mean(estimate.info["divergences"])}

        return jax.lax.map(up_to, jnp.arange(depth))

    found = jax.jit(lambda pair: jax.lax.map(one, pair))((mean, jnp.log(jnp.maximum(variance, VARIANCE_FLOOR))))
    return jax.tree.map(lambda values: jnp.repeat(values, draws, axis=0), found)
