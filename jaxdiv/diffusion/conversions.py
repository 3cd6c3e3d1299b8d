"""What a network predicts (clean data, noise, velocity) turned into clean data, and back.

All for ``x_t = alpha x0 + s eps`` with any ``alpha`` and ``s``:

===========  ==========================  ============================================
kind         the network predicts        x0 from it
===========  ==========================  ============================================
``x0``       ``x0``                      the prediction
``epsilon``  ``eps``                     ``(x_t - s eps) / alpha``
``v``        ``alpha eps - s x0``        ``(alpha x_t - s v) / (alpha^2 + s^2)``
``flow``     ``eps - x0``                ``(x_t - s u) / (alpha + s)``
===========  ==========================  ============================================

``v`` is that of Salimans and Ho; ``flow`` is the velocity ``dx_t/dt`` of ``x_t = (1 - t) x0 + t eps``, from data to
noise.
"""

import jax.numpy as jnp

from jaxdiv.checks import check_choice, check_floating, check_same_shape
from jaxdiv.diffusion.batching import compute_dtype, per_example
from jaxdiv.typing import Array, ArrayLike

PREDICTION_KINDS = ("x0", "epsilon", "v", "flow")
"""What a network may predict."""


def _arguments(
    function: str, kind: str, x_t: ArrayLike, alpha: ArrayLike, s: ArrayLike, **prediction: ArrayLike
) -> tuple[Array, Array, Array, Array]:
    check_choice(function, "kind", kind, PREDICTION_KINDS)
    check_floating(function, x_t=x_t, **prediction)
    check_same_shape(function, x_t=x_t, **prediction)
    (value,) = prediction.values()
    dtype = compute_dtype(value, x_t, alpha, s)
    alpha = per_example(function, "alpha", alpha, x_t).astype(dtype)
    s = per_example(function, "s", s, x_t).astype(dtype)
    return jnp.asarray(value, dtype), jnp.asarray(x_t, dtype), alpha, s


def to_x0(prediction: ArrayLike, x_t: ArrayLike, *, alpha: ArrayLike, s: ArrayLike, kind: str) -> Array:
    """Computes the clean data that a prediction at ``x_t = alpha x0 + s eps`` implies; formulas in the module's table.

    Every kind is affine in the prediction, so a posterior mean goes to a posterior mean.

    Args:
        prediction: the network's output ``[B, ...]``, floating.
        x_t: its noisy input ``[B, ...]``, unscaled.
        alpha: scale of the data in ``x_t``, ``[B]`` (or a leading part of ``x_t``'s shape); positive for ``epsilon``.
        s: standard deviation of the noise in ``x_t``, ``[B]``, not negative.
        kind: ``"x0"``, ``"epsilon"``, ``"v"`` or ``"flow"``.

    Returns:
        x0 ``[B, ...]``, float32 (float64 for float64 input).

    Raises:
        ValueError: if ``kind`` is unknown, or shapes or dtypes do not fit.

    Source: Salimans, Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", arXiv:2202.00512, section 4
    (``v``); Lipman, Chen, Ben-Hamu, Nickel, Le, "Flow Matching for Generative Modeling", arXiv:2210.02747 (``flow``).

    >>> round(float(to_x0(0.5, 1.3, alpha=0.8, s=0.6, kind="epsilon")), 5)  # 0.8 * 1.25 + 0.6 * 0.5 = 1.3
    1.25
    """
    prediction, x_t, alpha, s = _arguments("to_x0", kind, x_t, alpha, s, prediction=prediction)
    if kind == "x0":
        return prediction
    if kind == "epsilon":
        return (x_t - s * prediction) / alpha
    if kind == "v":
        return (alpha * x_t - s * prediction) / (alpha * alpha + s * s)
    return (x_t - s * prediction) / (alpha + s)


def from_x0(x0: ArrayLike, x_t: ArrayLike, *, alpha: ArrayLike, s: ArrayLike, kind: str) -> Array:
    """Computes what a network of the given kind has to predict for clean data ``x0`` at ``x_t``; inverse of `to_x0`.

    Through ``eps = (x_t - alpha x0) / s``, so rounding grows as ``1 / s`` towards the clean end.

    Args:
        x0: clean data or its posterior mean ``[B, ...]``, floating.
        x_t: noisy data ``alpha x0 + s eps``, ``[B, ...]``.
        alpha: scale of the data in ``x_t``, ``[B]`` (or a leading part of ``x_t``'s shape).
        s: standard deviation of the noise in ``x_t``, ``[B]``, positive.
        kind: ``"x0"``, ``"epsilon"``, ``"v"`` or ``"flow"``.

    Returns:
        The prediction ``[B, ...]``, float32 (float64 for float64 input).

    Raises:
        ValueError: if ``kind`` is unknown, or shapes or dtypes do not fit.

    Source: as for `to_x0`.

    >>> round(float(from_x0(1.25, 1.3, alpha=0.8, s=0.6, kind="v")), 6)  # 0.8 * 0.5 - 0.6 * 1.25
    -0.35
    """
    x0, x_t, alpha, s = _arguments("from_x0", kind, x_t, alpha, s, x0=x0)
    if kind == "x0":
        return x0
    epsilon = (x_t - alpha * x0) / s
    if kind == "epsilon":
        return epsilon
    return alpha * epsilon - s * x0 if kind == "v" else epsilon - x0
