"""A tanh network with normal noise on every hidden unit, and its losses."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiv.typing import Array, PRNGKey


class Layer(NamedTuple):
    """An affine map."""

    kernel: Array
    """``[in, out]``."""
    bias: Array
    """``[out]``."""


def init_network(key: PRNGKey, *, inputs: int, depth: int, width: int, outputs: int) -> list[Layer]:
    """Depth hidden layers and a head, kernels of variance 1 / in, biases 0."""
    sizes = [inputs, *[width] * depth, outputs]
    shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
    numbers = jax.random.normal(key, (sum(n * m for n, m in shapes),))  # one draw compiles in less time than many
    layers = []
    for n, m in shapes:
        kernel, numbers = numbers[: n * m].reshape(n, m), numbers[n * m :]
        layers.append(Layer(kernel / n**0.5, jnp.zeros(m)))
    return layers


def apply_network(params: list[Layer], images: Array, noise: Array) -> tuple[Array, Array]:
    """Logits ``[B, C]`` and the means ``[depth, B, width]`` of each hidden layer Z_l given the one before.

    Z_l = tanh(Z_{l-1} kernel_l + bias_l) + noise_l, Z_0 the images.

    Args:
        params: depth hidden layers of equal width and a head.
        images: ``[B, d]``.
        noise: ``[depth, B, width]``; or ``[depth, 1, width]``, the same for all images: if it is known, what comes
            before layer l is no longer random, and Z_l given X is normal around its mean at every l.
    """
    z, means = images, []
    for layer, added in zip(params[:-1], noise, strict=True):
        means.append(jnp.tanh(z @ layer.kernel + layer.bias))
        z = means[-1] + added
    return z @ params[-1].kernel + params[-1].bias, jnp.stack(means)


def draw_noise(key: PRNGKey, params: list[Layer], num_images: int, scale: float) -> Array:
    """``[depth, num_images, width]``."""
    return scale * jax.random.normal(key, (len(params) - 1, num_images, len(params[0].bias)))


def losses(params: list[Layer], images: Array, labels: Array, noise: Array) -> tuple[Array, Array]:
    """Cross-entropy in nats, and 1 where the class is wrong, ``[B]`` each, with one draw of the noise."""
    logits, _ = apply_network(params, images, noise)
    wrong = (jnp.argmax(logits, axis=1) != labels).astype(logits.dtype)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels), wrong


def expected_losses(
    params: list[Layer], images: Array, labels: Array, *, key: PRNGKey, scale: float, draws: int
) -> tuple[Array, Array]:
    """`losses` averaged over draws of the noise."""

    def one(k):
        return losses(params, images, labels, draw_noise(k, params, len(images), scale))

    loss, wrong = jax.lax.map(one, jax.random.split(key, draws))
    return jnp.mean(loss, axis=0), jnp.mean(wrong, axis=0)
