"""Problems whose gap is known: the classifier sign(W . z) with W the mean of n normal samples, and what noise does.

Z_i ~ N(mu, I_d) stands for label times image, mu has length "distance" along (1, ..., 1), W = mean(Z_i), and a sample
is wrong where W . z < 0. Given W = w, a training sample is N(w, (1 - 1/n) I), so that the gap given w has a closed
form, and only the mean over W is simulated. The 0-1 loss lies in [0, 1]: it is (1/2)-sub-Gaussian.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import rel_entr
from jax.scipy.stats import norm

from jaxdiv.divergences import Gaussian, gaussian_kl
from jaxdiv.information import (
    dropout_contraction,
    gaussian_contraction,
    kl_generalization_bounds,
    mean_estimator_information,
)
from jaxdiv.typing import Array, PRNGKey

SUB_GAUSSIAN = 0.5


class Known(NamedTuple):
    """A simulated gap beside bounds of it."""

    gap: Array
    """Mean over trials; ``[...]``, for instance one per depth."""
    stderr: Array
    """Its standard error, the same shape."""
    bounds: dict[str, Array]
    """The same shape, by name."""


def draw_weights(
    key: PRNGKey, *, dimension: int, num_samples: int, distance: float, trials: int
) -> tuple[Array, Array]:
    """W ``[trials, d]`` in pairs mu + e, mu - e, the second half behind the first, and mu ``[d]``.

    The gap is even in e to first order: pairs take most of the noise out of its mean.
    """
    mu = jnp.full(dimension, distance / dimension**0.5)
    shift = jax.random.normal(key, ((trials + 1) // 2, dimension)) / num_samples**0.5
    return jnp.concatenate([mu + shift, mu - shift]), mu


def _paired_mean(values: Array) -> tuple[Array, Array]:
    """Mean and standard error over the first axis, whose halves are pairs."""
    pairs = (values[: len(values) // 2] + values[len(values) // 2 :]) / 2.0
    return jnp.mean(pairs, axis=0), jnp.std(pairs, axis=0, ddof=1) / len(pairs) ** 0.5


def error_rates(weights: Array, mu: Array, num_samples: int) -> tuple[Array, Array]:
    """Probabilities of an error, given W: of a training sample, Phi(-|w| / sqrt(1 - 1/n)), and of a new one."""
    length = jnp.linalg.norm(weights, axis=-1)
    train = norm.cdf(-length / np.sqrt(1.0 - 1.0 / num_samples))
    return train, norm.cdf(-(weights @ mu) / length)


def mean_classifier(key: PRNGKey, *, dimension: int, num_samples: int, distance: float, trials: int) -> Known:
    """The gap and its bounds at the input, behind the linear layer and behind the sign.

    - "input": I(W; Z_i) = d/2 log(n / (n - 1)),
    - "linear": KL of the normal laws of w . Z_i and w . Z given w, averaged over W,
    - "sign": KL of the two laws of the error, averaged: all that the loss reads.

    Args:
        key: of the trials.
        dimension: d.
        num_samples: n, at least 2.
        distance: the length of mu.
        trials: draws of W.
    """
    weights, mu = draw_weights(key, dimension=dimension, num_samples=num_samples, distance=distance, trials=trials)
    train, test = error_rates(weights, mu, num_samples)
    square = jnp.sum(jnp.square(weights), axis=1, keepdims=True)
    p = Gaussian(square, variance=square * (1.0 - 1.0 / num_samples))
    q = Gaussian((weights @ mu)[:, None], variance=square)
    divergences = {
        "input": mean_estimator_information(dimension=dimension, num_samples=num_samples),
        "linear": jnp.mean(gaussian_kl(p=p, q=q)),
        "sign": jnp.mean(rel_entr(train, test) + rel_entr(1.0 - train, 1.0 - test)),
    }
    bounds = {
        name: kl_generalization_bounds(value[None], sub_gaussian=SUB_GAUSSIAN) for name, value in divergences.items()
    }
    return Known(*_paired_mean(test - train), bounds)


def dropout_layers(
    key: PRNGKey, *, probability: float, depth: int, dimension: int, num_samples: int, distance: float, trials: int
) -> Known:
    """Gaps ``[depth + 1]`` of the same classifier behind 0, 1, ..., depth dropout layers, and "contraction" bounds.

    A coordinate passes l layers with probability (1 - probability)^l; a sample that lost all counts as half an error.
    Coordinates are exchangeable, so the k that are left may be the first k.
    """
    weights, mu = draw_weights(key, dimension=dimension, num_samples=num_samples, distance=distance, trials=trials)
    left = [jnp.zeros(len(weights))]
    for k in range(1, dimension + 1):
        train, test = error_rates(weights[:, :k], mu[:k], num_samples)
        left.append(test - train)
    kept = (1.0 - probability) ** np.arange(depth + 1)[:, None]
    k = np.arange(dimension + 1)
    choose = np.array([float(np.prod([(dimension - i) / (i + 1) for i in range(j)])) for j in k])
    shares = choose * kept**k * (1.0 - kept) ** (dimension - k)
    information = mean_estimator_information(dimension=dimension, num_samples=num_samples)
    eta = dropout_contraction(probability=probability, width=dimension)
    bounds = kl_generalization_bounds(information[None], sub_gaussian=SUB_GAUSSIAN, contractions=jnp.full(depth, eta))
    return Known(*_paired_mean(jnp.stack(left, axis=1) @ jnp.asarray(shares.T, jnp.float32)), {"contraction": bounds})


def gaussian_layers(
    key: PRNGKey, *, scale: float, depth: int, dimension: int, num_samples: int, distance: float, trials: int
) -> Known:
    """Gaps ``[depth + 1]`` behind 0, 1, ..., depth layers T_l = tanh(T_{l-1}) + scale N(0, I), and their bounds.

    T_0 is the sample and W . T_l < 0 the error; the noise of the last layer is integrated, what is before it simulated,
    with the same for a training sample and a new one.
    """
    weights, mu = draw_weights(key, dimension=dimension, num_samples=num_samples, distance=distance, trials=trials)
    length = jnp.linalg.norm(weights, axis=1)
    sample_key, *keys = jax.random.split(jax.random.fold_in(key, 1), depth + 1)
    white = jax.random.normal(sample_key, weights.shape)
    states = [weights + np.sqrt(1.0 - 1.0 / num_samples) * white, mu + white]
    train, test = error_rates(weights, mu, num_samples)
    gaps = [test - train]
    for k in keys:
        means = [jnp.tanh(state) for state in states]
        train, test = (norm.cdf(-jnp.sum(weights * m, axis=1) / (scale * length)) for m in means)
        gaps.append(test - train)
        noise = scale * jax.random.normal(k, weights.shape)
        states = [m + noise for m in means]
    information = mean_estimator_information(dimension=dimension, num_samples=num_samples)
    eta = gaussian_contraction(radius=dimension**0.5, scale=scale)
    bounds = kl_generalization_bounds(information[None], sub_gaussian=SUB_GAUSSIAN, contractions=jnp.full(depth, eta))
    return Known(*_paired_mean(jnp.stack(gaps, axis=1)), {"contraction": bounds})
