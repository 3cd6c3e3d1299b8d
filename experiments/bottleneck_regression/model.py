"""The network of every method: an encoder with Gaussian noise on its representation, and a decoder."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.typing import Array, PRNGKey, PyTree

NOISES = ("none", "fixed", "scalar", "diagonal")


class Forward(NamedTuple):
    """What a pass gives for N rows."""

    prediction: Array
    """``[N]``."""
    representation: Array
    """``[N, width]``, T: the mean and its noise."""
    mean: Array
    log_variance: Array
    """``[N, width]``; -inf without noise."""


@dataclasses.dataclass(frozen=True)
class Model:
    """Encoder d - width - width - width (ReLU) and a linear mean, decoder width - width - 1.

    The noise of the representation is N(0, v I): "none" v = 0; "fixed" v = std^2; "scalar" one v is learned, which
    starts there; "diagonal" the encoder says v for each row and coordinate, and starts there.
    """

    width: int
    noise: str
    std: float

    def init(self, key: PRNGKey, dim: int) -> PyTree:
        """Weights and biases uniform in +-1 / sqrt(inputs).

        So small that the representations of two rows begin about one kernel width apart in all coordinates together:
        a Gaussian kernel of width 1 on 128 coordinates of variance 1 sees nothing but a row itself.
        """
        w = self.width
        sizes = {"encoder": [(dim, w), (w, w), (w, w)], "mean": [(w, w)], "decoder": [(w, w), (w, 1)]}
        if self.noise == "diagonal":
            sizes["log_variance"] = [(w, w)]
        layers = [(name, shape) for name, shapes in sizes.items() for shape in shapes]
        # One draw, cut to pieces, compiles in a tenth of the time of a draw for each.
        ends = np.cumsum([(inputs + 1) * outputs for _, (inputs, outputs) in layers])
        pieces = jnp.split(jax.random.uniform(key, (int(ends[-1]),), minval=-1.0, maxval=1.0), ends[:-1])
        params: dict[str, Any] = {name: [] for name in sizes}
        for (name, (inputs, outputs)), piece in zip(layers, pieces, strict=True):
            table = piece.reshape(inputs + 1, outputs) / math.sqrt(inputs)
            params[name].append({"weight": table[:-1], "bias": table[-1]})
        if self.noise == "scalar":
            params["log_variance"] = jnp.zeros(())
        return params

    def encode(self, params: PyTree, x: Array) -> tuple[Array, Array]:
        """Mean and log-variance ``[N, width]`` of T for rows ``[N, d]``."""
        hidden = x
        for layer in params["encoder"]:
            hidden = jax.nn.relu(_linear(layer, hidden))
        mean = _linear(params["mean"][0], hidden)
        start = 2.0 * math.log(self.std) if self.std > 0 and self.noise != "none" else -math.inf
        if self.noise == "diagonal":
            return mean, start + _linear(params["log_variance"][0], hidden)
        learned = params["log_variance"] if self.noise == "scalar" else 0.0
        return mean, jnp.broadcast_to(start + learned, mean.shape)

    def decode(self, params: PyTree, representation: Array) -> Array:
        """Predictions ``[N]``."""
        first, last = params["decoder"]
        return _linear(last, jax.nn.relu(_linear(first, representation)))[:, 0]

    def apply(self, params: PyTree, x: Array, key: PRNGKey) -> Forward:
        """A pass with noise drawn, differentiable in its scale; without noise the key is not used."""
        mean, log_variance = self.encode(params, x)
        noise = jnp.exp(log_variance / 2.0) * jax.random.normal(key, mean.shape) if self.noise != "none" else 0.0
        representation = mean + noise
        return Forward(self.decode(params, representation), representation, mean, log_variance)

    def predict(self, params: PyTree, x: Array) -> Array:
        """Predictions ``[N]`` from the mean representation."""
        return self.decode(params, self.encode(params, x)[0])


def _linear(layer: dict[str, Array], x: Array) -> Array:
    return x @ layer["weight"] + layer["bias"]
