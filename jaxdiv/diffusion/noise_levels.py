"""Noise levels: the sampler's grid, and the laws that training and distillation draw them from.

The axis is EDM's: ``x_t = x_0 + sigma * noise`` with ``sigma`` in the units of the data, usually in [0.002, 80].
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_floating, check_range
from jaxdiv.diffusion.batching import compute_dtype
from jaxdiv.typing import Array, ArrayLike, PRNGKey


def _check_karras(function: str, sigma_min: float, sigma_max: float, rho: float) -> None:
    check_range(function, "sigma_min", sigma_min, 0, open_low=True)
    check_range(function, "sigma_max", sigma_max, sigma_min, np.inf, open_low=True, open_high=True)
    check_range(function, "rho", rho, 0, np.inf, open_low=True, open_high=True)


def karras_noise_levels(
    num_levels: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> np.ndarray:
    """Computes the sampler's grid of noise levels, from the largest to the smallest.

    ``sigma_i = (a + i/(N-1) * (b - a))^rho`` with ``a = sigma_max^(1/rho)``, ``b = sigma_min^(1/rho)``. There is no
    trailing zero: the sampler appends it.

    Args:
        num_levels: N, at least 1; one level is ``sigma_max`` alone.
        sigma_min: smallest level, in units of the data.
        sigma_max: largest level.
        rho: how strongly levels crowd towards ``sigma_min``; 1 spaces them evenly.

    Returns:
        ``[num_levels]``, descending, a NumPy float64 array whose two ends are exact; JAX takes it in its own precision.

    Raises:
        ValueError: unless ``0 < sigma_min < sigma_max``, ``rho > 0`` and ``num_levels >= 1``.

    Source: Karras, Aittala, Aila, Laine, "Elucidating the Design Space of Diffusion-Based Generative Models",
    arXiv:2206.00364, equation 5.

    >>> karras_noise_levels(18)[[0, 1, -1]].round(4).tolist()
    [80.0, 57.586, 0.002]
    """
    check_range("karras_noise_levels", "num_levels", num_levels, 1)
    _check_karras("karras_noise_levels", sigma_min, sigma_max, rho)
    levels = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_levels, dtype=np.float64) ** rho
    levels[0] = sigma_max
    if num_levels > 1:
        levels[-1] = sigma_min
    return levels


def karras_noise_level(
    uniform: ArrayLike, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Array:
    """Maps a number in [0, 1] onto the noise axis along the sampler's spacing; it grows from 0 to 1.

    ``sigma(u) = (b + u * (a - b))^rho`` with ``a = sigma_max^(1/rho)``, ``b = sigma_min^(1/rho)``: the grid of
    `karras_noise_levels` is ``u = 1 - i/(N-1)``. A uniform draw on [0, 0.8] gives SiD's law.

    Args:
        uniform: any shape, floating, in [0, 1].
        sigma_min: level at 0.
        sigma_max: level at 1.
        rho: spacing exponent.

    Returns:
        Levels of ``uniform``'s shape, float32 (float64 for float64 input).

    Raises:
        ValueError: unless ``0 < sigma_min < sigma_max`` and ``rho > 0``, or if ``uniform`` is not floating.

    Source: arXiv:2206.00364, equation 5; the law up to 0.8: Zhou, Zheng, Wang, Yin, Huang, "Score identity
    Distillation", arXiv:2404.04057.

    >>> round(float(karras_noise_level(0.8)), 2)
    24.41
    """
    _check_karras("karras_noise_level", sigma_min, sigma_max, rho)
    check_floating("karras_noise_level", uniform=uniform)
    u = jnp.asarray(uniform, compute_dtype(uniform))
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return (low + u * (high - low)) ** rho


def karras_density(sigma: ArrayLike, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0) -> Array:
    """Computes the density, in ``sigma``, of `karras_noise_level` at a uniform draw on [0, 1].

    ``p(sigma) = sigma^(1/rho - 1) / (rho * (sigma_max^(1/rho) - sigma_min^(1/rho)))`` inside [sigma_min, sigma_max] and
    zero outside. It turns a loss drawn from this law into one under another by an importance weight.

    Args:
        sigma: any shape, floating, positive.
        sigma_min: lower end of the support.
        sigma_max: upper end of the support.
        rho: spacing exponent.

    Returns:
        Densities per unit of ``sigma``, of its shape, float32 (float64 for float64 input).

    Raises:
        ValueError: unless ``0 < sigma_min < sigma_max`` and ``rho > 0``, or if ``sigma`` is not floating.

    >>> round(float(karras_density(1.0, rho=1.0)) * (80 - 0.002), 6)
    1.0
    """
    _check_karras("karras_density", sigma_min, sigma_max, rho)
    check_floating("karras_density", sigma=sigma)
    sigma = jnp.asarray(sigma, compute_dtype(sigma))
    width = sigma_max ** (1 / rho) - sigma_min ** (1 / rho)
    inside = (sigma >= sigma_min) & (sigma <= sigma_max)
    return jnp.where(inside, sigma ** (1 / rho - 1) / (rho * width), 0.0)


def log_normal_noise_level(normal: ArrayLike, *, mean: float = -1.2, std: float = 1.2) -> Array:
    """Maps a standard normal draw onto EDM's training law: ``sigma = exp(mean + std * normal)``.

    For callers that draw per example themselves; `sample_log_normal` draws too.

    Args:
        normal: any shape, floating.
        mean: mean of ``log(sigma)``.
        std: standard deviation of ``log(sigma)``, positive.

    Returns:
        Noise levels of ``normal``'s shape, float32 (float64 for float64 input).

    Raises:
        ValueError: if ``std`` is not positive or ``normal`` is not floating.

    Source: arXiv:2206.00364, table 1, "Noise distribution".

    >>> print(log_normal_noise_level(jnp.array([0.0, 1.0])).round(4))
    [0.3012 1.    ]
    """
    check_range("log_normal_noise_level", "std", std, 0, open_low=True)
    check_floating("log_normal_noise_level", normal=normal)
    return jnp.exp(mean + std * jnp.asarray(normal, compute_dtype(normal)))


def sample_log_normal(key: PRNGKey, shape: tuple[int, ...], *, mean: float = -1.2, std: float = 1.2) -> Array:
    """Draws noise levels from EDM's training law: ``log(sigma) ~ N(mean, std^2)``.

    Args:
        key: typed PRNG key.
        shape: shape of the draw, usually ``(B,)``.
        mean: mean of ``log(sigma)``.
        std: standard deviation of ``log(sigma)``, positive.

    Returns:
        Noise levels ``shape``, in JAX's default floating dtype.

    Raises:
        ValueError: if ``std`` is not positive.

    Source: arXiv:2206.00364, table 1, "Noise distribution".

    >>> sample_log_normal(jax.random.key(0), (4,)).shape
    (4,)
    """
    check_range("sample_log_normal", "std", std, 0, open_low=True)
    return log_normal_noise_level(jax.random.normal(key, shape), mean=mean, std=std)


def log_normal_density(sigma: ArrayLike, *, mean: float = -1.2, std: float = 1.2) -> Array:
    """Computes the density of the log-normal law of noise levels, per unit of ``sigma``.

    ``p(sigma) = exp(-(log(sigma) - mean)^2 / (2 std^2)) / (sigma * std * sqrt(2 pi))``. Times ``sigma`` it is the
    density per unit of ``log(sigma)``.

    Args:
        sigma: any shape, floating, positive.
        mean: mean of ``log(sigma)``.
        std: standard deviation of ``log(sigma)``, positive.

    Returns:
        Densities of ``sigma``'s shape, float32 (float64 for float64 input).

    Raises:
        ValueError: if ``std`` is not positive or ``sigma`` is not floating.

    >>> round(float(log_normal_density(1.0, mean=0.0, std=1.0)), 6)
    0.398942
    """
    check_range("log_normal_density", "std", std, 0, open_low=True)
    check_floating("log_normal_density", sigma=sigma)
    log_sigma = jnp.log(jnp.asarray(sigma, compute_dtype(sigma)))
    z = (log_sigma - mean) / std
    return jnp.exp(-0.5 * z * z - log_sigma) / (std * (2 * np.pi) ** 0.5)
