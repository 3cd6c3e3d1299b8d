"""The network of the experiment: a plain MLP with one head over all classes."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.typing import Array, PRNGKey, PyTree


def init_network(key: PRNGKey, *, inputs: int, widths: Sequence[int], outputs: int) -> PyTree:
    """Weights with variance 2 / inputs (1 / inputs in the head), biases 0; kernels are ``[in, out]``."""
    sizes = [inputs, *widths, outputs]
    names = [f"hidden_{i}" for i in range(len(widths))] + ["head"]
    params = {}
    for name, k, n, m in zip(names, jax.random.split(key, len(names)), sizes[:-1], sizes[1:], strict=True):
        deviation = np.sqrt((1.0 if name == "head" else 2.0) / n)
        params[name] = {"kernel": deviation * jax.random.normal(k, (n, m)), "bias": jnp.zeros(m)}
    return params


def apply_network(params: PyTree, x: Array) -> tuple[Array, Array]:
    """Logits ``[B, C]`` and the last hidden representation ``[B, width]`` of ``[B, d]``."""
    for i in range(len(params) - 1):
        layer = params[f"hidden_{i}"]
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ params["head"]["kernel"] + params["head"]["bias"], x


def hidden_kernels(tree: PyTree) -> list[Array]:
    """The hidden layers' matrices, of parameters or of updates."""
    return [tree[f"hidden_{i}"]["kernel"] for i in range(len(tree) - 1)]
