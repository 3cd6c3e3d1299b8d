"""Data laws whose denoiser, score and probability-flow solution are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np

MEAN, VARIANCE = 0.3, 0.49
WEIGHTS, MEANS, STDS = np.array([0.35, 0.65]), np.array([-1.0, 0.8]), np.array([0.5, 0.7])


def column(sigma, x):
    return sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim))


def gaussian_denoiser(x, sigma, mean=MEAN, variance=VARIANCE):
    """E[x0 | x] for x0 ~ N(mean, variance) in every coordinate."""
    gain = variance / (variance + column(sigma, x) ** 2)
    return mean + gain * (x - mean)


def gaussian_flow(x, sigma, mean=MEAN, variance=VARIANCE):
    """Where the probability-flow ODE takes x from noise level sigma to zero."""
    return mean + (x - mean) * np.sqrt(variance / (variance + sigma**2))


def mixture_log_density(x, sigma):
    """log density of one number x under the two-component mixture with noise sigma."""
    variance = STDS**2 + sigma**2
    terms = jnp.log(WEIGHTS) - 0.5 * (x - MEANS) ** 2 / variance - 0.5 * jnp.log(2 * jnp.pi * variance)
    return jax.nn.logsumexp(terms)


def mixture_denoiser(x, sigma):
    """E[x0 | x] in every coordinate, from the components' posterior means."""
    noise = column(sigma, x)[..., None] ** 2
    variance = STDS**2 + noise
    logits = jnp.log(WEIGHTS) - 0.5 * (x[..., None] - MEANS) ** 2 / variance - 0.5 * jnp.log(variance)
    posterior = MEANS + STDS**2 / variance * (x[..., None] - MEANS)
    return jnp.sum(jax.nn.softmax(logits) * posterior, axis=-1)
