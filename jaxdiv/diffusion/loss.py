"""The denoising loss that trains a score network, one number per example."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_batch, check_floating, check_range, check_same_shape, fail
from jaxdiv.diffusion.batching import compute_dtype, per_example
from jaxdiv.typing import Array, ArrayLike


def edm_weight(sigma: ArrayLike, *, sigma_data: float) -> Array:
    """Computes EDM's loss weight ``(sigma^2 + sigma_data^2) / (sigma sigma_data)^2``, which is ``1 / c_out^2``.

    With it the preconditioned network's own output has the same error weight at every noise level.

    Args:
        sigma: any shape, floating, positive.
        sigma_data: standard deviation of the clean data, positive.

    Returns:
        Weights of ``sigma``'s shape, float32 (float64 for float64 input).

    Raises:
        ValueError: if ``sigma_data`` is not positive or ``sigma`` is not floating.

    Source: Karras, Aittala, Aila, Laine, arXiv:2206.00364, table 1, "Loss weighting".

    >>> float(edm_weight(1.0, sigma_data=0.5))
    5.0
    """
    check_range("edm_weight", "sigma_data", sigma_data, 0, np.inf, open_low=True, open_high=True)
    check_floating("edm_weight", sigma=sigma)
    sigma = jnp.asarray(sigma, compute_dtype(sigma))
    # A sum of two reciprocals: the product of squares in the textbook form underflows sooner.
    return 1 / jnp.square(sigma) + 1 / sigma_data**2


def denoising_loss(
    denoise_fn: Callable[[Array, Array], Any],
    x0: ArrayLike,
    *,
    sigma: ArrayLike,
    noise: ArrayLike,
    weight: ArrayLike,
    has_aux: bool = False,
) -> Any:
    """Computes the weighted denoising error of every example, averaged over the example's elements.

    ``loss_i = weight_i * mean_j (D(x0 + sigma noise, sigma) - x0)_ij^2``. Its minimiser over functions D is the
    posterior mean E[x0 | x_t] whatever the positive weight. The mean over elements makes the number independent of the
    image size; EDM's published loss is the sum, larger by the number of elements.

    Args:
        denoise_fn: ``(x [B, ...], sigma [B]) -> D`` of x's shape, or ``(D, aux)``.
        x0: clean data ``[B, ...]``, floating.
        sigma: noise levels ``[B]``, positive.
        noise: standard normal draw of ``x0``'s shape.
        weight: ``[B]``, for example `edm_weight`.
        has_aux: return the denoiser's second output too; the denoiser then has to return a pair.

    Returns:
        ``[B]`` float32 (float64 for float64 input), or that and ``aux``. Everything is differentiated: ``x0`` too, both
        as the denoiser's input and as its target.

    Raises:
        ValueError: if shapes or dtypes do not fit, or ``has_aux`` is set and the denoiser returns one array.

    Source: arXiv:2206.00364, equations 2 and 8.

    >>> x0 = jnp.array([[1.0, -1.0]])
    >>> weight = edm_weight(jnp.ones(1), sigma_data=0.5)
    >>> denoising_loss(lambda x, sigma: 0 * x, x0, sigma=jnp.ones(1), noise=jnp.zeros((1, 2)), weight=weight).tolist()
    [5.0]
    """
    check_floating("denoising_loss", x0=x0, sigma=sigma, noise=noise, weight=weight)
    check_same_shape("denoising_loss", x0=x0, noise=noise)
    if np.ndim(x0) == 0:
        raise fail("denoising_loss", "x0", "has shape ()", "a batch of examples")
    check_batch("denoising_loss", "sigma", sigma, np.shape(x0)[0])
    check_batch("denoising_loss", "weight", weight, np.shape(x0)[0])
    dtype = compute_dtype(x0, sigma, noise)
    x0, sigma, noise = (jnp.asarray(a, dtype) for a in (x0, sigma, noise))
    output = denoise_fn(x0 + per_example("denoising_loss", "sigma", sigma, x0) * noise, sigma)
    if has_aux and not isinstance(output, tuple):
        raise fail("denoising_loss", "denoise_fn", "returned one array", "a pair (D, aux), since has_aux is set")
    denoised = output[0] if isinstance(output, tuple) else output
    check_same_shape("denoising_loss", x0=x0, denoised=denoised)
    error = jnp.square(denoised.astype(dtype) - x0)
    loss = jnp.asarray(weight, dtype) * jnp.mean(error, axis=tuple(range(1, x0.ndim)))
    return (loss, output[1]) if has_aux else loss
