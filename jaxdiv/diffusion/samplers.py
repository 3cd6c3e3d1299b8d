"""EDM's sampler: Heun's method on the probability-flow ODE, with optional fresh noise at every level."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_choice, check_floating, check_range, check_same_shape, check_shape, fail
from jaxdiv.diffusion.batching import compute_dtype
from jaxdiv.typing import Array, ArrayLike, DenoiseFn, PRNGKey


def heun_sample(
    denoise_fn: DenoiseFn,
    noise: ArrayLike,
    *,
    sigmas: ArrayLike,
    key: PRNGKey | None = None,
    order: int = 2,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = float("inf"),
    s_noise: float = 1.0,
) -> Array:
    """Draws samples from a denoiser by Heun's method, from the first noise level down to zero.

    It solves ``dx/dsigma = (x - D(x, sigma)) / sigma``. Each level takes an Euler step to the next and corrects it by
    the slope found there; the last step, to zero, is Euler alone. N levels cost ``2N - 1`` evaluations (``order=1``: N,
    the Euler method, which on this axis is DDIM). With ``s_churn > 0`` each level in [s_min, s_max] is first raised to
    ``sigma (1 + gamma)``, ``gamma = min(s_churn / N, sqrt(2) - 1)``, by adding noise.

    All evaluations are one ``lax.scan``, so the denoiser is compiled once whatever N is.

    Args:
        denoise_fn: ``(x [B, ...], sigma [B]) -> D`` of x's shape: the posterior mean of clean data.
        noise: standard normal draw ``[B, ...]``; the sampler multiplies it by ``sigmas[0]``.
        sigmas: ``[N]``, positive, descending, without a final zero, for example `karras_noise_levels`.
        key: typed PRNG key; needed only with ``s_churn > 0``.
        order: 2 for Heun, 1 for Euler.
        s_churn: amount of fresh noise over the whole run; 0 is the deterministic sampler.
        s_min: smallest level at which noise is added.
        s_max: largest level at which noise is added.
        s_noise: standard deviation of the added noise, usually 1 or slightly more.

    Returns:
        Samples ``[B, ...]``, float32 (float64 for float64 noise). Differentiable in ``noise`` and through
        ``denoise_fn``.

    Raises:
        ValueError: if ``sigmas`` is not 1-D, or (unless it is traced) not positive and descending; if ``s_churn``
            is positive without a key; if a setting is out of range.

    Source: Karras, Aittala, Aila, Laine, arXiv:2206.00364, algorithms 1 and 2.

    >>> posterior_mean = lambda x, sigma: x / (1 + sigma[:, None] ** 2)  # of data N(0, 1): the ODE maps x to x/sqrt(5)
    >>> from jaxdiv.diffusion import karras_noise_levels
    >>> samples = heun_sample(posterior_mean, jnp.ones((1, 1)), sigmas=karras_noise_levels(200, sigma_max=2.0))
    >>> round(float(samples[0, 0]), 3), round(2 / 5**0.5, 3)
    (0.894, 0.894)
    """
    check_floating("heun_sample", noise=noise)
    check_choice("heun_sample", "order", order, (1, 2))
    for name, value in (("s_churn", s_churn), ("s_min", s_min), ("s_max", s_max), ("s_noise", s_noise)):
        check_range("heun_sample", name, value, 0)
    if s_churn > 0 and key is None:
        raise fail("heun_sample", "key", "is None", "a PRNG key, since s_churn is positive")
    check_shape("heun_sample", "sigmas", sigmas, (None,))
    if np.ndim(noise) == 0:
        raise fail("heun_sample", "noise", "has shape ()", "a batch of examples")
    if np.shape(sigmas)[0] == 0:
        raise fail("heun_sample", "sigmas", "has shape (0,)", "at least one level")
    if not isinstance(sigmas, jax.core.Tracer):
        levels = np.asarray(sigmas)
        if not (np.all(levels > 0) and np.all(np.diff(levels) < 0)):
            raise fail("heun_sample", "sigmas", f"is {levels}", "positive descending levels (the sampler appends zero)")

    dtype = compute_dtype(noise)
    noise = jnp.asarray(noise, dtype)
    sigmas = jnp.asarray(sigmas, dtype)
    num_levels = sigmas.shape[0]
    gamma = min(s_churn / num_levels, 2**0.5 - 1) * ((sigmas >= s_min) & (sigmas <= s_max))
    raised = sigmas * (1 + gamma)
    churn = sigmas * jnp.sqrt(gamma * (2 + gamma)) * s_noise  # sqrt(raised^2 - sigma^2) without the cancellation
    following = jnp.append(sigmas[1:], 0)

    # One row per evaluation: at level i the predictor's, then (but for the last level) the corrector's.
    steps = np.repeat(np.arange(num_levels), order)[: order * num_levels - (order - 1)]
    corrects = np.arange(steps.size) % order == 1
    schedule = (
        jnp.where(corrects, following[steps], raised[steps]),
        (following - raised)[steps],
        jnp.where(corrects, 0, churn[steps]),
        corrects,
        np.arange(steps.size),
    )

    def evaluate(carry: tuple[Array, Array, Array], row: tuple[Array, ...]) -> tuple[tuple[Array, Array, Array], None]:
        x, start, start_slope = carry
        sigma, step, added_noise, is_corrector, index = row
        if s_churn > 0:
            x = x + added_noise * jax.random.normal(jax.random.fold_in(key, index), x.shape, dtype)
        denoised = denoise_fn(x, jnp.full(x.shape[:1], sigma))
        check_same_shape("heun_sample", x=x, denoised=denoised)
        slope = (x - denoised.astype(dtype)) / sigma
        start = jnp.where(is_corrector, start, x)
        mean_slope = jnp.where(is_corrector, (start_slope + slope) / 2, slope)
        return (start + step * mean_slope, start, slope), None

    initial = sigmas[0] * noise
    (samples, _, _), _ = jax.lax.scan(evaluate, (initial, initial, jnp.zeros_like(initial)), schedule)
    return samples
