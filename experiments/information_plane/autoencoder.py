"""A small autoencoder of the digits, whose code stands for X."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.information_plane.models import init_weights
from jaxdiv.typing import Array, PRNGKey, PyTree

HIDDEN = 64


def _forward(layers: PyTree, x: Array) -> Array:
    inside = jnp.tanh(x @ layers[0]["kernel"] + layers[0]["bias"])
    return inside @ layers[1]["kernel"] + layers[1]["bias"]


def fit_autoencoder(
    key: PRNGKey, x: np.ndarray, *, code_dims: int, steps: int = 1500, learning_rate: float = 3e-3
) -> tuple[Callable[[Array], Array], float]:
    """The encoder ``[N, d] -> [N, code_dims]`` and the share of variance that decoding its codes explains.

    d-64-code-64-d with tanh inside, Adam on the squared error of all inputs at once. It sees no label and no network.
    """
    data, width = jnp.asarray(x), x.shape[1]
    params = init_weights(key, [(width, HIDDEN), (HIDDEN, code_dims), (code_dims, HIDDEN), (HIDDEN, width)])
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def loss_fn(params: PyTree) -> Array:
        return jnp.mean(jnp.sum(jnp.square(_forward(params[2:], _forward(params[:2], data)) - data), axis=1))

    @jax.jit
    def fit(params: PyTree) -> tuple[PyTree, Array]:
        def step(carry: tuple[PyTree, PyTree], _: None) -> tuple[tuple[PyTree, PyTree], None]:
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss_fn)(params), state)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=steps)
        return params, loss_fn(params)

    params, error = fit(params)
    explained = 1.0 - float(error) / float(jnp.sum(jnp.var(data, axis=0)))
    return lambda inputs: _forward(params[:2], inputs), explained
