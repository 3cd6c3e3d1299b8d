"""The networks: a layered perceptron for the bits and a convolutional one with noise in its layers for the digits."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.typing import Array, PRNGKey, PyTree

BIT_WIDTHS = (10, 7, 5, 4, 3, 2)
CHANNELS, DENSE, NUM_CLASSES = (8, 16), 32, 10
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class Model(NamedTuple):
    """A network as two functions."""

    init_fn: Callable[[PRNGKey], PyTree]
    apply_fn: Callable[[PyTree, Array, PRNGKey], tuple[Array, list[Array]]]
    """(params, x, key) to logits ``[N, C]`` and the layers that are measured, ``[N, ...]``. The key is of the noise."""
    layer_names: tuple[str, ...]


def init_weights(key: PRNGKey, shapes: list[tuple[int, ...]]) -> list[dict[str, Array]]:
    """Kernels normal with deviation 1 / sqrt(inputs), cut at two deviations, biases 0; outputs are the last axis."""
    layers = []
    for k, shape in zip(jax.random.split(key, len(shapes)), shapes, strict=True):
        *within, outputs = shape
        inputs = 1
        for size in within:
            inputs *= size
        kernel = jax.random.truncated_normal(k, -2.0, 2.0, shape) / inputs**0.5
        layers.append({"kernel": kernel, "bias": jnp.zeros(outputs)})
    return layers


def perceptron(activation: str, *, inputs: int = 12) -> Model:
    """12-10-7-5-4-3-2 of Shwartz-Ziv and Tishby (arXiv:1703.00810). Measured: hidden layers, output's probabilities."""
    shapes = list(zip((inputs, *BIT_WIDTHS[:-1]), BIT_WIDTHS, strict=True))

    def apply_fn(params: PyTree, x: Array, key: PRNGKey) -> tuple[Array, list[Array]]:
        del key  # no noise: every layer is a function of x
        layers = []
        for layer in params[:-1]:
            x = ACTIVATIONS[activation](x @ layer["kernel"] + layer["bias"])
            layers.append(x)
        logits = x @ params[-1]["kernel"] + params[-1]["bias"]
        return logits, [*layers, jax.nn.softmax(logits)]

    names = tuple(f"{number}: {width}" for number, width in enumerate(BIT_WIDTHS, start=1))
    return Model(lambda key: init_weights(key, shapes), apply_fn, names)


def convolve(x: Array, kernel: Array, *, stride: int) -> Array:
    """3x3 correlation of ``[N, H, W, C]`` with ``[3, 3, C, D]``, borders of 0; a sum of products that vmap keeps fast.

    >>> convolve(jnp.ones((1, 4, 4, 1)), jnp.ones((3, 3, 1, 1)), stride=2)[0, :, :, 0].tolist()
    [[4.0, 6.0], [6.0, 9.0]]
    """
    _, height, width, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(3) for j in range(3)]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def convolutional(activation: str, *, noise: float) -> Model:
    """Two 3x3 convolutions, the second of stride 2, and a dense layer, on images ``[N, 8, 8, 1]``.

    Every hidden layer is its activation plus N(0, noise^2), in training and afterwards, as in Goldfeld et al.,
    "Estimating information flow in deep neural networks" (arXiv:1810.05728): so I(X; L) is finite and no choice of the
    analyst. Measured: these three.
    """
    first, second = CHANNELS
    shapes = [(3, 3, 1, first), (3, 3, first, second), (16 * second, DENSE), (DENSE, NUM_CLASSES)]

    def apply_fn(params: PyTree, x: Array, key: PRNGKey) -> tuple[Array, list[Array]]:
        layers = []
        for number, layer in enumerate(params[:-1]):
            if number < len(CHANNELS):
                x = convolve(x, layer["kernel"], stride=number + 1)
            else:
                x = x.reshape(len(x), -1) @ layer["kernel"]
            x = ACTIVATIONS[activation](x + layer["bias"])
            x = x + noise * jax.random.normal(jax.random.fold_in(key, number), x.shape)
            layers.append(x)
        return x @ params[-1]["kernel"] + params[-1]["bias"], layers

    names = (f"1: conv {first}", f"2: conv {second}", f"3: dense {DENSE}")
    return Model(lambda key: init_weights(key, shapes), apply_fn, names)
