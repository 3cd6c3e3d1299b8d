"""EDM's preconditioning: a network of unit-variance inputs and targets becomes a denoiser at every noise level."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_floating, check_range, check_same_shape
from jaxdiv.diffusion.batching import compute_dtype, per_example
from jaxdiv.typing import Array, ArrayLike


class Preconditioning(NamedTuple):
    """The four coefficients of ``D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)``, each of ``sigma``'s shape."""

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


def edm_preconditioning(sigma: ArrayLike, *, sigma_data: float) -> Preconditioning:
    """Computes EDM's coefficients, which give the network inputs and targets of unit variance.

    With ``d = sigma_data``: ``c_skip = d^2 / (sigma^2 + d^2)``, ``c_out = sigma d / sqrt(sigma^2 + d^2)``,
    ``c_in = 1 / sqrt(sigma^2 + d^2)``, ``c_noise = log(sigma) / 4``.

    Args:
        sigma: any shape, floating, positive.
        sigma_data: standard deviation of the clean data, about its own mean of zero; positive.

    Returns:
        `Preconditioning`, each member of ``sigma``'s shape, float32 (float64 for float64 input).

    Raises:
        ValueError: if ``sigma_data`` is not positive or ``sigma`` is not floating.

    Source: arXiv:2206.00364, table 1, "Network and preconditioning".

    >>> [round(float(c), 4) for c in edm_preconditioning(1.0, sigma_data=0.5)]
    [0.2, 0.4472, 0.8944, 0.0]
    """
    check_range("edm_preconditioning", "sigma_data", sigma_data, 0, np.inf, open_low=True, open_high=True)
    check_floating("edm_preconditioning", sigma=sigma)
    sigma = jnp.asarray(sigma, compute_dtype(sigma))
    variance = sigma * sigma + sigma_data**2
    c_in = 1 / jnp.sqrt(variance)
    return Preconditioning(
        c_skip=sigma_data**2 / variance, c_out=sigma * sigma_data * c_in, c_in=c_in, c_noise=jnp.log(sigma) / 4
    )


def precondition(network_fn: Callable[..., Any], *, sigma_data: float) -> Callable[..., Any]:
    """Turns a raw network into a denoiser: ``D(x, sigma) = c_skip x + c_out F(c_in x, c_noise)``.

    The arithmetic around the network is float32 (float64 for float64 input) whatever the network computes in; a network
    that computes in bfloat16 casts its own input.

    Args:
        network_fn: ``(params, x, c_noise, *args, **kwargs) -> F`` or ``(F, aux)``; ``x`` ``[B, ...]`` and F of its
            shape, ``c_noise`` ``[B]``.
        sigma_data: standard deviation of the clean data, positive.

    Returns:
        ``denoise_fn(params, x, sigma, *args, **kwargs) -> D`` or ``(D, aux)``, as the network returns; ``x``
        ``[B, ...]`` floating, ``sigma`` ``[B]`` positive. What follows ``sigma`` reaches the network unchanged.
        Differentiable in ``params``, ``x`` and ``sigma``.

    Raises:
        ValueError: here if ``sigma_data`` is not positive; in the denoiser if shapes or dtypes do not fit.

    Source: arXiv:2206.00364, equation 7.

    >>> denoise_fn = precondition(lambda params, x, c_noise: params * x, sigma_data=0.5)
    >>> round(float(denoise_fn(1.0, jnp.ones((1, 1)), jnp.ones(1))[0, 0]), 4)
    0.6
    """
    check_range("precondition", "sigma_data", sigma_data, 0, np.inf, open_low=True, open_high=True)

    def denoise_fn(params: Any, x: ArrayLike, sigma: ArrayLike, *args: Any, **kwargs: Any) -> Any:
        check_floating("denoise_fn", x=x)
        sigma_column = per_example("denoise_fn", "sigma", sigma, x)
        coefficients = edm_preconditioning(sigma, sigma_data=sigma_data)
        dtype = compute_dtype(x, sigma)
        x = jnp.asarray(x, dtype)
        c_skip, c_out, c_in = (jnp.reshape(c, sigma_column.shape) for c in coefficients[:3])
        output = network_fn(params, c_in * x, coefficients.c_noise, *args, **kwargs)
        network_output = output[0] if isinstance(output, tuple) else output
        check_same_shape("denoise_fn", x=x, network_output=network_output)
        denoised = c_skip * x + c_out * network_output.astype(dtype)
        return (denoised, *output[1:]) if isinstance(output, tuple) else denoised

    return denoise_fn
