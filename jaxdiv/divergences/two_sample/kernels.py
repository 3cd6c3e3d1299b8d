"""Kernels k(x, y) on vectors as records: functions of the Euclidean distance, or of the inner product."""

import dataclasses
import math
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_instance, check_integer, check_real, fail, floating_array, register_checked
from jaxdiv.divergences.two_sample.arguments import check_option

RADIAL = ("gaussian", "laplace", "power", "distance")
METHODS = ("expansion", "direct")


@register_checked(["bandwidth"])
@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel, made by one of the functions below. A pytree whose leaf is the bandwidth: it may be traced.

    Attributes:
        kind: "gaussian", "laplace", "power" (rational quadratic), "distance" or "polynomial".
        bandwidth: a number, or [L] for the mean of L kernels. For "polynomial" the factor of the inner product.
        exponent: of the kinds that have one.
        offset: of "polynomial".
        distances: "expansion" or "direct", see `squared_distances`.

    >>> kernel = gaussian_kernel(2.0)
    >>> round(float(kernel.profile(jnp.float32(8.0))), 6), kernel.is_smooth  # exp(-8 / (2 * 4))
    (0.367879, True)
    """

    kind: str
    bandwidth: Any
    exponent: float = 1.0
    offset: float = 0.0
    distances: str = "expansion"

    def __post_init__(self) -> None:
        """Refuses fields of which no kernel can be made; what suits the kind, the functions below check."""
        check_option("Kernel", "kind", self.kind, (*RADIAL, "polynomial"))
        if self.kind != "distance":
            _widths("Kernel", self.bandwidth)
        elif self.bandwidth is not None:
            raise fail("Kernel", "bandwidth", f"is {self.bandwidth!r}", "None: a distance has no bandwidth")
        check_real("Kernel", "exponent", self.exponent, 0.0, math.inf, open_low=True, open_high=True)
        if self.kind == "polynomial" and self.exponent != int(self.exponent):
            raise fail("Kernel", "exponent", f"is {self.exponent}", "a whole number for kind 'polynomial'")
        check_real("Kernel", "offset", self.offset, 0.0, math.inf, open_high=True)
        check_option("Kernel", "distances", self.distances, METHODS)

    @property
    def is_radial(self) -> bool:
        """Whether the kernel is a function of the distance alone."""
        return self.kind in RADIAL

    @property
    def is_smooth(self) -> bool:
        """Whether the kernel is radial and has two derivatives at distance 0, as the Stein discrepancy needs."""
        return self.kind in ("gaussian", "power")

    def profile(self, s: jax.Array) -> jax.Array:
        """The kernel as a function of the squared distance (of the inner product for "polynomial"), elementwise."""
        if self.kind == "distance":
            return -root(s, self.exponent / 2.0)
        # A numpy number is rounded once, to the samples' dtype, whatever jax's default one is.
        bandwidth = self.bandwidth if isinstance(self.bandwidth, jax.Array) else np.asarray(self.bandwidth)
        widths = jnp.asarray(bandwidth.astype(s.dtype))
        if self.kind == "polynomial":
            return (widths * s + self.offset) ** int(self.exponent)
        widths = widths.reshape(-1)
        # A Python loop over a handful of bandwidths fuses into one pass; a new axis would be written out.
        return sum(self._member(s, widths[i]) for i in range(widths.size)) / widths.size

    def _member(self, s: jax.Array, width: jax.Array) -> jax.Array:
        if self.kind == "gaussian":
            return jnp.exp(s * (-0.5 / (width * width)))
        if self.kind == "laplace":
            return jnp.exp(-root(s, 0.5) / width)
        return jnp.exp(-self.exponent * jnp.log1p(s / (width * width)))


def root(s: jax.Array, power: float) -> jax.Array:
    """s^power for s >= 0, with derivative 0 instead of inf at s = 0: the subgradient of a norm that symmetry picks."""
    zero = s <= 0.0  # an expansion of the caller's may round below 0; NaN is neither, and stays
    safe = jnp.where(zero, 1.0, s)
    return jnp.where(zero, 0.0, jnp.sqrt(safe) if power == 0.5 else safe**power)


def _widths(function: str, bandwidth: Any) -> jax.Array | np.ndarray:
    """A positive number or a non-empty vector of them; the values of jax arrays, maybe traced, are not read."""
    if isinstance(bandwidth, numbers.Real) and not isinstance(bandwidth, bool):
        bandwidth = float(bandwidth)
    array = floating_array(function, "bandwidth", bandwidth)
    if array.ndim > 1 or array.size == 0:
        raise fail(function, "bandwidth", f"has shape {array.shape}", "a number or a non-empty vector")
    if isinstance(bandwidth, jax.Array):
        return array
    values = np.asarray(bandwidth, np.float64)  # keeps its digits until the samples' dtype is known
    for value in values.ravel().tolist():
        check_real(function, "bandwidth", value, 0.0, math.inf, open_low=True, open_high=True)
    return values


def gaussian_kernel(bandwidth: Any, *, distances: str = "expansion") -> Kernel:
    r"""exp(-|x - y|^2 / (2 h^2)), averaged over the bandwidths h when there are several.

    Args:
        bandwidth: h > 0: a number, or a vector of them; a jax array may be traced and is not checked for its sign.
        distances: "expansion" or "direct", see `squared_distances`. The expansion errs by about 1e-7 R^2 / h^2 in the
            exponent, R the radius of the data; take "direct" where the data is 100 times wider than h.

    Raises:
        ValueError: a bandwidth that is not positive, or an unknown method.

    >>> round(float(gaussian_kernel(1.0).profile(jnp.float32(2.0))), 6)
    0.367879
    """
    check_option("gaussian_kernel", "distances", distances, METHODS)
    return Kernel("gaussian", _widths("gaussian_kernel", bandwidth), distances=distances)


def laplace_kernel(bandwidth: Any, *, distances: str = "direct") -> Kernel:
    r"""exp(-|x - y| / h) with the Euclidean norm (scikit-learn's has the 1-norm), averaged over several bandwidths.

    The root of a squared distance doubles its relative error, and for close pairs the expansion's is large, hence
    direct differences. The derivative at x = y, where there is none, is taken as 0.

    Args:
        bandwidth: h > 0: a number, or a vector of them.
        distances: "direct" or "expansion", see `squared_distances`.

    Raises:
        ValueError: a bandwidth that is not positive, or an unknown method.

    >>> round(float(laplace_kernel(2.0).profile(jnp.float32(4.0))), 6)
    0.367879
    """
    check_option("laplace_kernel", "distances", distances, METHODS)
    return Kernel("laplace", _widths("laplace_kernel", bandwidth), distances=distances)


def rational_quadratic_kernel(bandwidth: Any, *, exponent: float = 1.0, distances: str = "expansion") -> Kernel:
    r"""(1 + |x - y|^2 / (2 a h^2))^(-a), a Gaussian kernel averaged over scales; exponent a to infinity gives it back.

    Args:
        bandwidth: h > 0: a number, or a vector of them.
        exponent: a > 0.
        distances: "expansion" or "direct", see `squared_distances`.

    Raises:
        ValueError: a bandwidth or exponent that is not positive, or an unknown method.

    >>> round(float(rational_quadratic_kernel(1.0).profile(jnp.float32(2.0))), 6)
    0.5
    """
    function = "rational_quadratic_kernel"
    check_option(function, "distances", distances, METHODS)
    check_real(function, "exponent", exponent, 0.0, math.inf, open_low=True, open_high=True)
    widths = _widths(function, bandwidth) * math.sqrt(2.0 * exponent)
    return Kernel("power", widths, float(exponent), distances=distances)


def inverse_multiquadric_kernel(bandwidth: Any, *, exponent: float = 0.5, distances: str = "expansion") -> Kernel:
    r"""(1 + |x - y|^2 / h^2)^(-b); with b in (0, 1) its Stein discrepancy controls weak convergence.

    The same family as `rational_quadratic_kernel`; h^(-2b) times the (c^2 + |x - y|^2)^(-b), c = h, of the paper.

    Args:
        bandwidth: h > 0: a number, or a vector of them.
        exponent: b > 0.
        distances: "expansion" or "direct", see `squared_distances`.

    Raises:
        ValueError: a bandwidth or exponent that is not positive, or an unknown method.

    Source: Gorham and Mackey, "Measuring sample quality with kernels", arXiv:1703.01717, theorem 8.

    >>> round(float(inverse_multiquadric_kernel(1.0).profile(jnp.float32(3.0))), 6)
    0.5
    """
    function = "inverse_multiquadric_kernel"
    check_option(function, "distances", distances, METHODS)
    check_real(function, "exponent", exponent, 0.0, math.inf, open_low=True, open_high=True)
    return Kernel("power", _widths(function, bandwidth), float(exponent), distances=distances)


def distance_kernel(exponent: float = 1.0, *, distances: str = "direct") -> Kernel:
    r"""-|x - y|^e, whose squared MMD is the energy distance. Only conditionally positive definite.

    Args:
        exponent: e in (0, 2).
        distances: "direct" or "expansion", see `squared_distances`.

    Raises:
        ValueError: the exponent is outside (0, 2), or an unknown method.

    Source: Sejdinovic et al., "Equivalence of distance-based and RKHS-based statistics", arXiv:1207.6076, section 4.

    >>> float(distance_kernel().profile(jnp.float32(9.0)))
    -3.0
    """
    check_option("distance_kernel", "distances", distances, METHODS)
    check_real("distance_kernel", "exponent", exponent, 0.0, 2.0, open_low=True, open_high=True)
    return Kernel("distance", None, float(exponent), distances=distances)


def polynomial_kernel(degree: int, *, scale: Any = 1.0, offset: float = 1.0) -> Kernel:
    r"""(scale x.y + offset)^degree: its MMD compares the moments up to the degree. KID has degree 3, scale 1/d.

    Args:
        degree: an integer, at least 1.
        scale: positive number, or a jax scalar.
        offset: at least 0.

    Raises:
        ValueError: a parameter is outside its range.

    >>> float(polynomial_kernel(2, scale=0.5).profile(jnp.float32(4.0)))
    9.0
    """
    check_integer("polynomial_kernel", "degree", degree, 1)
    check_real("polynomial_kernel", "offset", offset, 0.0, math.inf, open_high=True)
    factor = scale if isinstance(scale, jax.Array) else float(_positive("polynomial_kernel", "scale", scale))
    if isinstance(factor, jax.Array) and (factor.ndim or not jnp.issubdtype(factor.dtype, jnp.floating)):
        raise fail("polynomial_kernel", "scale", f"is {factor.dtype}{list(factor.shape)}", "a floating scalar")
    return Kernel("polynomial", factor, float(degree), float(offset))


def _positive(function: str, argument: str, value: Any) -> float:
    check_real(function, argument, value, 0.0, math.inf, open_low=True, open_high=True)
    return value


def linear_kernel() -> Kernel:
    """The inner product x.y: its MMD is the distance of the means.

    >>> float(linear_kernel().profile(jnp.float32(4.0)))
    4.0
    """
    return polynomial_kernel(1, offset=0.0)


def check_kernel(function: str, kernel: Any) -> None:
    """The argument is a `Kernel` record, not its name.

    >>> check_kernel("f", linear_kernel())
    """
    check_instance(function, "kernel", kernel, Kernel)
