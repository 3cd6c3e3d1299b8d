"""Laws of the noise level at which student and fake score are compared: ``law(key) -> sigma``, one draw per key.

A law is a frozen record, so it is hashable and can sit in a static configuration.
"""

from dataclasses import dataclass

import jax

from jaxdiv.checks import check_range
from jaxdiv.diffusion import karras_noise_level, log_normal_noise_level
from jaxdiv.typing import Array, PRNGKey


@dataclass(frozen=True)
class LogNormal:
    """``ln sigma ~ N(mean, std^2)``, the training law of EDM (Karras et al., arXiv 2206.00364, table 1).

    >>> bool(0.99 < LogNormal(mean=0.0, std=1e-3)(jax.random.key(0)) < 1.01)
    True
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        check_range("LogNormal", "std", self.std, 0.0, open_low=True)

    def __call__(self, key: PRNGKey) -> Array:
        """One noise level."""
        return log_normal_noise_level(jax.random.normal(key), mean=self.mean, std=self.std)


@dataclass(frozen=True)
class KarrasUniform:
    """``sigma = (a + u (b - a))^rho``, ``a = sigma_min^(1/rho)``, ``b = sigma_max^(1/rho)``, ``u ~ U[low, high]``.

    SiD draws ``u`` from [0, 0.8], which is sigma in [0.002, 24.41] (Zhou et al., arXiv 2404.04057, section 5);
    DMD draws it from [0.02, 0.98] of the same axis (Yin et al., arXiv 2311.18828).

    >>> round(float(KarrasUniform(low=0.8, high=0.8)(jax.random.key(0))), 2)
    24.41
    """

    low: float = 0.0
    high: float = 0.8
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        check_range("KarrasUniform", "low", self.low, 0.0, 1.0)
        check_range("KarrasUniform", "high", self.high, self.low, 1.0)
        check_range("KarrasUniform", "sigma_min", self.sigma_min, 0.0, self.sigma_max, open_low=True, open_high=True)
        check_range("KarrasUniform", "rho", self.rho, 0.0, open_low=True)

    def __call__(self, key: PRNGKey) -> Array:
        """One noise level."""
        u = jax.random.uniform(key, minval=self.low, maxval=self.high)
        return karras_noise_level(u, sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho)


NoiseLaw = LogNormal | KarrasUniform
