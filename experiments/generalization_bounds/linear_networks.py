"""The Wasserstein bound, layer by layer, of a deep linear network whose gap has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.generalization_bounds.known_gaps import Known
from jaxdiv.checks import fail
from jaxdiv.divergences import Gaussian, gaussian_squared_wasserstein
from jaxdiv.information import wasserstein_generalization_bounds
from jaxdiv.typing import Array, PRNGKey


def draw_maps(key: PRNGKey, *, widths: tuple[int, ...], gain: float) -> list[Array]:
    """Matrices of normal entries with variance gain^2 / in, from widths[0] inputs to widths[-1] outputs."""
    keys = jax.random.split(key, len(widths) - 1)
    return [gain * jax.random.normal(k, (m, n)) / n**0.5 for k, n, m in zip(keys, widths[:-1], widths[1:], strict=True)]


def lower_factor(matrix: Array) -> Array:
    """L with L L' = A A', its diagonal not negative, of A ``[m, n]`` with m <= n: by QR, which squares nothing."""
    if matrix.shape[0] > matrix.shape[1]:
        raise fail("lower_factor", "matrix", f"has shape {matrix.shape}", "at most as many rows as columns")
    lower = jnp.linalg.qr(matrix.T, mode="r").T
    return lower * jnp.where(jnp.diagonal(lower) < 0.0, -1.0, 1.0)


def linear_network(key: PRNGKey, maps: list[Array], *, num_samples: int, trials: int) -> Known:
    """The loss |v . A_L ... A_1 (z - W)| with W the mean of n samples of N(0, I), and |v| = 1 along (1, ..., 1).

    z - W is N(0, (1 - 1/n) I) for a training sample and N(0, (1 + 1/n) I) for a new one, hence

        gap = sqrt(2 / pi) |A_1' ... A_L' v| (sqrt(1 + 1/n) - sqrt(1 - 1/n)).

    The bound at layer l has W_2 of the two normal laws of A_l ... A_1 (z - W) given W, averaged over trials of W, and
    the spectral norms of the layers behind l. As W_2 at l + 1 is at most W_2 at l times the norm of A_{l+1}, the last
    layer always has the least bound: with this constant no layer in the middle can.

    Args:
        key: of W.
        maps: A_1, ..., A_L, none with more rows than columns.
        num_samples: n, at least 2.
        trials: draws of W.

    Returns:
        `Known`, whose gap has standard error 0 and whose "layers" are ``[L + 1]``.
    """
    behind = jnp.ones(len(maps[-1])) / len(maps[-1]) ** 0.5
    for matrix in reversed(maps):
        behind = behind @ matrix
    step = np.sqrt(1.0 + 1.0 / num_samples) - np.sqrt(1.0 - 1.0 / num_samples)
    gap = np.sqrt(2.0 / np.pi) * step * jnp.linalg.norm(behind)

    means = jax.random.normal(key, (trials, maps[0].shape[1])) / num_samples**0.5
    factor, distances = jnp.eye(maps[0].shape[1]), []
    for matrix in [None, *maps]:
        factor = factor if matrix is None else matrix @ factor
        tril = lower_factor(factor)
        zeros = jnp.zeros(len(tril))
        p = Gaussian(zeros, scale_tril=tril * np.sqrt(1.0 - 1.0 / num_samples))
        spread = gaussian_squared_wasserstein(p=p, q=Gaussian(zeros, scale_tril=tril))
        # The squared distance of the means, 0 and -A_l ... A_1 (W - mu), adds to that of the covariances.
        distances.append(jnp.mean(jnp.sqrt(jnp.sum(jnp.square(means @ factor.T), axis=1) + spread)))
    norms = jnp.stack([jnp.linalg.norm(matrix, 2) for matrix in maps])
    bounds = wasserstein_generalization_bounds(jnp.stack(distances), norms, loss_lipschitz=1.0)
    return Known(gap, jnp.zeros(()), {"layers": bounds})
