"""What a trained network is: its error, what it keeps of x, and its error on inputs changed against it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bottleneck_regression.attacks import fgsm, pgd
from experiments.bottleneck_regression.methods import Widths
from experiments.bottleneck_regression.model import Model
from experiments.bottleneck_regression.splits import Part
from jaxdiv.information import cs_qmi, encoder_information
from jaxdiv.typing import Array, PRNGKey, PyTree

Measures = dict[str, np.ndarray]


@functools.partial(jax.jit, static_argnames=("model", "widths", "rows"))
def _measure(params: PyTree, part: Any, keys: PRNGKey, *, model: Model, widths: Widths, rows: int) -> dict[str, Array]:
    def one(weights, seed):
        x, y, key = seed
        error = jnp.mean(jnp.square(model.predict(weights, x) - y))
        mean, log_variance = model.encode(weights, x[:rows])
        kept = cs_qmi(x[:rows], mean, sigma=(widths.x, widths.representation)).value
        if model.noise == "none":  # a function of x, which keeps infinitely much
            information = jnp.full((), jnp.nan)
        else:
            information = encoder_information(mean, log_variance, key=key).value
        relevance = 0.5 * jnp.log(jnp.var(y) / error)
        return {"rmse": jnp.sqrt(error), "relevance": relevance, "information": information, "cs_qmi": kept}

    # One model at a time: the pairs of rows of all at once would not stay in any cache.
    return jax.lax.map(lambda p: jax.lax.map(lambda s: one(*s), (p, (part.x, part.y, keys))), params)


def measure(
    params: PyTree, part: Part, keys: PRNGKey, *, model: Model, widths: Widths | None = None, rows: int = 512
) -> Measures:
    """Numbers ``[betas, seeds]`` of trained networks on one part of every split.

    - rmse: of the prediction from the mean representation, in standard units.
    - relevance: log(Var y / MSE) / 2 nats. With residuals counted as normal it stands for I(T; Y): it is a lower bound
      where y is normal, for then h(y | prediction) is at most that of a normal residual.
    - information: the lower bound of `encoder_information` on I(X; T) in nats, at most log rows, the same for every
      method with noise; NaN without.
    - cs_qmi: between x and the mean of T, at the widths CS-IB trains with. No information, and not blind to T's scale;
      of the noisy T, 128 coordinates of noise would be most of what it sees.

    Args:
        params: leaves with axes [betas, seeds].
        part: ``[seeds, N, d]`` and ``[seeds, N]``.
        keys: ``[seeds]`` typed keys, for the noise.
        model: the network.
        widths: of the kernels.
        rows: how many, from the first, information and cs_qmi look at.
    """
    values = _measure(params, jax.tree.map(jnp.asarray, part), keys, model=model, widths=widths or Widths(), rows=rows)
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


@functools.partial(jax.jit, static_argnames=("model", "steps"))
def _attacked(params: PyTree, part: Any, epsilons: Array, *, model: Model, steps: int) -> dict[str, Array]:
    def one(weights, x, y, epsilon):
        def predict(rows):
            return model.predict(weights, rows)

        moved = {
            "fgsm": fgsm(predict, x, y, epsilon=epsilon),
            "pgd": pgd(predict, x, y, epsilon=epsilon, steps=steps),
        }
        return {name: jnp.sqrt(jnp.mean(jnp.square(predict(rows) - y))) for name, rows in moved.items()}

    over_seeds = jax.vmap(one, in_axes=(0, 0, 0, None))
    return jax.lax.map(lambda epsilon: over_seeds(params, part.x, part.y, epsilon), epsilons)


def attacked_rmse(params: PyTree, part: Part, *, model: Model, epsilons: tuple[float, ...], steps: int) -> Measures:
    """RMSE ``[epsilons, seeds]`` under "fgsm" and "pgd", in standard units, of one network per seed.

    Epsilon is in standard deviations of the columns, one-hot ones among them; gradients pass through the prediction
    from the mean representation.
    """
    part = jax.tree.map(jnp.asarray, part)
    values = _attacked(params, part, jnp.asarray(epsilons, jnp.float32), model=model, steps=steps)
    return {name: np.asarray(value, np.float64) for name, value in values.items()}


def pick(params: PyTree, choice: np.ndarray) -> PyTree:
    """Of leaves with axes [betas, seeds], for each seed the network with the beta of this number."""
    return jax.tree.map(lambda leaf: leaf[choice, np.arange(len(choice))], params)
