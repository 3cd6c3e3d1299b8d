"""Schedules ``x_t = alpha(t) x0 + s(t) eps`` of other families, each mapped onto EDM's axis ``sigma = s / alpha``.

Time runs from 0 (data) to 1 (noise), except for the variance-exploding schedule whose time is ``sigma`` itself. Every
inverse is in closed form and keeps its relative accuracy at both ends.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_floating, check_range, check_shape, fail
from jaxdiv.diffusion.batching import compute_dtype
from jaxdiv.typing import Array, ArrayLike

Curve = Callable[[ArrayLike], Array]


class Schedule(NamedTuple):
    """Four functions of one schedule; each takes and gives arrays of any one shape, float32 (float64 for float64).

    It holds functions, so it is closed over or passed as a static argument, never traced.
    """

    alpha: Curve
    """Scale of the data at time t."""
    s: Curve
    """Standard deviation of the noise at time t."""
    noise_level: Curve
    """``s(t) / alpha(t)``: the noise level on EDM's axis, growing in t."""
    time_of: Curve
    """The time at which the noise level is ``sigma``: inverse of ``noise_level``."""


def _curve(name: str, function: Callable[[Array], Array]) -> Curve:
    """Checks the argument's dtype and computes in float32 or better."""

    def curve(value: ArrayLike) -> Array:
        check_floating(name, value=value)
        return function(jnp.asarray(value, compute_dtype(value)))

    return curve


def _schedule(alpha: Curve, s: Curve, noise_level: Curve, time_of: Curve) -> Schedule:
    named = {"alpha": alpha, "s": s, "noise_level": noise_level, "time_of": time_of}
    return Schedule(**{name: _curve(f"Schedule.{name}", function) for name, function in named.items()})


def vp_schedule(*, beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """Gives the variance-preserving schedule with a linear rate ``beta(t) = beta_min + t (beta_max - beta_min)``.

    ``alpha = exp(-B/2)``, ``s = sqrt(1 - exp(-B))``, ``sigma = sqrt(exp(B) - 1)`` with ``B(t) = beta_min t +
    (beta_max - beta_min) t^2 / 2``; the inverse solves the quadratic at ``B = log(1 + sigma^2)``.

    Args:
        beta_min: rate at t = 0, not negative.
        beta_max: rate at t = 1, positive and at least ``beta_min``.

    Returns:
        The `Schedule`, t in [0, 1].

    Raises:
        ValueError: if a rate is out of range.

    Source: Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", arXiv:2011.13456,
    equation 33.

    >>> round(float(vp_schedule().noise_level(1.0)), 2)
    152.17
    """
    check_range("vp_schedule", "beta_min", beta_min, 0)
    check_range("vp_schedule", "beta_max", beta_max, beta_min, np.inf, open_high=True)
    check_range("vp_schedule", "beta_max", beta_max, 0, open_low=True)
    slope = beta_max - beta_min

    def integral(t: Array) -> Array:
        return t * (beta_min + 0.5 * slope * t)

    def time_of(sigma: Array) -> Array:
        # With L = log(1 + sigma^2); the usual root formula cancels as sigma goes to 0, this form of it does not.
        log_term = jnp.log1p(jnp.square(sigma))
        root = jnp.sqrt(beta_min**2 + 2 * slope * log_term)
        return jnp.where(log_term > 0, 2 * log_term / jnp.where(log_term > 0, beta_min + root, 1), 0)

    return _schedule(
        alpha=lambda t: jnp.exp(-0.5 * integral(t)),
        s=lambda t: jnp.sqrt(-jnp.expm1(-integral(t))),
        noise_level=lambda t: jnp.sqrt(jnp.expm1(integral(t))),
        time_of=time_of,
    )


def cosine_schedule(*, offset: float = 0.0) -> Schedule:
    """Gives the variance-preserving cosine schedule ``alpha = cos(b) / cos(a)``.

    ``b(t) = (pi/2) (t + offset) / (1 + offset)``, ``a = b(0)``, ``s = sqrt(sin(b - a) sin(b + a)) / cos(a)``; without
    an offset ``alpha = cos(pi t / 2)``, ``s = sin(pi t / 2)`` and ``sigma = tan(pi t / 2)``.

    Args:
        offset: 0 as Salimans and Ho use it; 0.008 as Nichol and Dhariwal do.

    Returns:
        The `Schedule`, t in [0, 1]; the noise level at t = 1 is infinite.

    Raises:
        ValueError: if ``offset`` is negative or not finite.

    Source: Nichol, Dhariwal, "Improved Denoising Diffusion Probabilistic Models", arXiv:2102.09672, equation 17.

    >>> round(float(cosine_schedule().noise_level(0.5)), 6)
    1.0
    """
    check_range("cosine_schedule", "offset", offset, 0, np.inf, open_high=True)
    start = 0.5 * np.pi * offset / (1 + offset)

    def angle(t: Array) -> Array:
        return 0.5 * np.pi * (t + offset) / (1 + offset)

    def fall(t: Array) -> Array:
        # The cosine of the angle as a sine of what is left to pi / 2, so that t near 1 keeps its digits.
        return jnp.sin(0.5 * np.pi * (1 - t) / (1 + offset))

    def rise(t: Array) -> Array:
        # sqrt(cos(a)^2 - cos(b)^2) as a product of sines; b - a is taken from t so that t near 0 keeps its digits.
        return jnp.sqrt(jnp.sin(0.5 * np.pi * t / (1 + offset)) * jnp.sin(angle(t) + start))

    def time_of(sigma: Array) -> Array:
        # tan(b)^2 = (sigma^2 + sin(a)^2) / cos(a)^2, and tan(b - a) from it without subtracting near angles.
        root = jnp.sqrt(jnp.square(sigma) + math.sin(start) ** 2)
        difference = jnp.square(sigma) / (root + math.sin(start) + (sigma == 0))
        scale = math.cos(start) ** 2 + math.sin(start) * root
        return jnp.arctan2(math.cos(start) * difference, scale) * (1 + offset) / (0.5 * np.pi)

    return _schedule(
        alpha=lambda t: fall(t) / math.cos(start),
        s=lambda t: rise(t) / math.cos(start),
        noise_level=lambda t: rise(t) / fall(t),
        time_of=time_of,
    )


def flow_matching_schedule() -> Schedule:
    """Gives the straight path of flow matching: ``alpha = 1 - t``, ``s = t``, ``sigma = t / (1 - t)``.

    Time 0 is data and 1 is noise; a model trained the other way round takes ``1 - t`` and predicts the negated
    velocity.

    Returns:
        The `Schedule`, t in [0, 1]; the noise level at t = 1 is infinite.

    Source: Lipman, Chen, Ben-Hamu, Nickel, Le, arXiv:2210.02747, section 4.1, example II; Liu, Gong, Liu, "Flow
    Straight and Fast", arXiv:2209.03003.

    >>> float(flow_matching_schedule().time_of(3.0))
    0.75
    """
    return _schedule(
        alpha=lambda t: 1 - t,
        s=lambda t: t,
        noise_level=lambda t: t / (1 - t),
        time_of=lambda sigma: sigma / (1 + sigma),
    )


def ve_schedule() -> Schedule:
    """Gives EDM's own axis as a schedule: ``alpha = 1`` and ``t = s = sigma``.

    Returns:
        The `Schedule`, t in [0, inf).

    Source: Karras, Aittala, Aila, Laine, arXiv:2206.00364, section 3.

    >>> float(ve_schedule().time_of(2.5))
    2.5
    """
    return _schedule(alpha=jnp.ones_like, s=lambda t: t, noise_level=lambda t: t, time_of=lambda sigma: sigma)


def discrete_vp_schedule(alphas_cumprod: ArrayLike) -> Schedule:
    """Gives the variance-preserving schedule of a teacher trained on N discrete steps, continued between them.

    Step i has ``alpha^2 = alphas_cumprod[i]`` and sits at ``t = i / (N - 1)``; between steps ``log(sigma)`` is linear
    in t. Such a network takes the step number, so its ``time_scale`` is ``N - 1``.

    Args:
        alphas_cumprod: ``[N]`` on the host, strictly decreasing in (0, 1), N at least 2: the running product of
            ``1 - beta``.

    Returns:
        The `Schedule`, t in [0, 1]; times and levels beyond the ends take the end's value.

    Raises:
        ValueError: if the table is not such a sequence.

    Source: Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239, equation 4.

    >>> schedule = discrete_vp_schedule(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))
    >>> [round(float(schedule.noise_level(t)), 2) for t in (0.0, 1.0)]
    [0.01, 157.41]
    """
    table = np.asarray(alphas_cumprod, dtype=np.float64)
    check_shape("discrete_vp_schedule", "alphas_cumprod", table, (None,))
    if table.size < 2 or not (np.all(np.diff(table) < 0) and table[0] < 1 and table[-1] > 0):
        raise fail("discrete_vp_schedule", "alphas_cumprod", f"is {table}", "at least 2 decreasing numbers in (0, 1)")
    times = np.linspace(0.0, 1.0, table.size)
    log_levels = 0.5 * (np.log1p(-table) - np.log(table))

    def noise_level(t: Array) -> Array:
        return jnp.exp(jnp.interp(t, times.astype(t.dtype), log_levels.astype(t.dtype)))

    def time_of(sigma: Array) -> Array:
        return jnp.interp(jnp.log(sigma), log_levels.astype(sigma.dtype), times.astype(sigma.dtype))

    return _schedule(
        alpha=lambda t: 1 / jnp.hypot(1, noise_level(t)),
        s=lambda t: noise_level(t) / jnp.hypot(1, noise_level(t)),
        noise_level=noise_level,
        time_of=time_of,
    )
