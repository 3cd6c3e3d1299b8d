"""A teacher of any parameterisation, seen as a denoiser on EDM's noise axis."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_choice, check_floating, check_range
from jaxdiv.diffusion.batching import compute_dtype, per_example
from jaxdiv.diffusion.conversions import PREDICTION_KINDS, to_x0
from jaxdiv.diffusion.schedules import Schedule
from jaxdiv.typing import ArrayLike


def denoiser_from_prediction(
    network_fn: Callable[..., Any], *, schedule: Schedule, kind: str, time_scale: float = 1.0
) -> Callable[..., Any]:
    """Turns a network of another schedule and prediction into ``D(x, sigma) = E[x0 | x0 + sigma noise = x]``.

    With ``t = time_of(sigma)`` the network is evaluated at ``x_t = alpha(t) x``, which has the law it was trained on,
    and its prediction is converted: ``D = to_x0(F(alpha(t) x, time_scale t), x_t)``.

    Args:
        network_fn: ``(params, x_t, time, *args, **kwargs) -> prediction`` or ``(prediction, aux)``; ``x_t``
            ``[B, ...]``, ``time`` ``[B]``.
        schedule: the schedule it was trained on, for example `vp_schedule`.
        kind: what it predicts: ``"x0"``, ``"epsilon"``, ``"v"`` or ``"flow"``.
        time_scale: what the network calls time is ``time_scale * t``; 999 or 1000 for many discrete teachers.

    Returns:
        ``denoise_fn(params, x, sigma, *args, **kwargs) -> D`` or ``(D, aux)``, as the network returns; ``x``
        ``[B, ...]`` floating, ``sigma`` ``[B]`` positive; float32 (float64 for float64 input). Differentiable in all
        three.

    Raises:
        ValueError: here if ``kind`` is unknown or ``time_scale`` not positive; in the denoiser if shapes or dtypes do
            not fit.

    Source: Karras, Aittala, Aila, Laine, arXiv:2206.00364, appendix C.

    >>> from jaxdiv.diffusion.schedules import flow_matching_schedule
    >>> velocity = lambda params, x_t, t: x_t / t[:, None]  # of data all zero: x_t = t eps, eps - x0 = x_t / t
    >>> denoise_fn = denoiser_from_prediction(velocity, schedule=flow_matching_schedule(), kind="flow")
    >>> denoise_fn(None, jnp.ones((1, 1)), jnp.ones(1)).tolist()
    [[0.0]]
    """
    check_choice("denoiser_from_prediction", "kind", kind, PREDICTION_KINDS)
    check_range("denoiser_from_prediction", "time_scale", time_scale, 0, np.inf, open_low=True, open_high=True)

    def denoise_fn(params: Any, x: ArrayLike, sigma: ArrayLike, *args: Any, **kwargs: Any) -> Any:
        check_floating("denoise_fn", x=x, sigma=sigma)
        dtype = compute_dtype(x, sigma)
        t = schedule.time_of(jnp.asarray(sigma, dtype))
        alpha = schedule.alpha(t)
        x_t = per_example("denoise_fn", "sigma", alpha, x) * jnp.asarray(x, dtype)
        output = network_fn(params, x_t, time_scale * t, *args, **kwargs)
        prediction = output[0] if isinstance(output, tuple) else output
        denoised = to_x0(prediction, x_t, alpha=alpha, s=schedule.s(t), kind=kind)
        return (denoised, *output[1:]) if isinstance(output, tuple) else denoised

    return denoise_fn
