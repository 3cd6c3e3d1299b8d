"""Dependence through kernels: HSIC, its normalised form, and centred kernel alignment."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_choice, check_instance, check_real
from jaxdiv.divergences import Kernel, center_gram, gaussian_kernel, gram_matrix, linear_kernel, median_bandwidth
from jaxdiv.information.arguments import check_rows, paired_samples
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.typing import Array

ESTIMATORS = ("unbiased", "biased")


def hsic(
    x: Any, y: Any, *, x_kernel: Kernel | None = None, y_kernel: Kernel | None = None, estimator: str = "unbiased"
) -> Estimate:
    r"""Hilbert-Schmidt independence criterion of two kernels: the squared MMD between p(x, y) and p(x) p(y).

    "biased" is sum(HKH * L) / N^2, the HSIC of the empirical law, at least 0 (Gretton et al. divide by (N - 1)^2).
    "unbiased" is sum(A * B) / (N (N - 3)) of the two U-centred Gram matrices, mean 0 under independence, so of either
    sign. O(N^2) memory. Differentiable in x, y and a given kernel's bandwidth; the median bandwidth is held fixed.

    Args:
        x: [N, dx] or [N] floating, N >= 2 (4 for "unbiased").
        y: [N, dy] or [N] floating.
        x_kernel: a `Kernel`; None is a Gaussian with `median_bandwidth`.
        y_kernel: the same for y.
        estimator: "unbiased" or "biased".

    Returns:
        An `Estimate` of kind "not MI", float32 (float64 where an input is); 0 where x or y is constant.

    Raises:
        ValueError: shapes that do not pair, too few rows, wrong dtypes, kernels or estimator.

    Source: Gretton et al., "Measuring statistical dependence with Hilbert-Schmidt norms" (2005); Song et al., "Feature
    selection via dependence maximization" (2012), equation 4; Szekely and Rizzo, arXiv:1310.2926, for U-centring.

    >>> x = jnp.array([0.0, 0.0, 1.0, 1.0])
    >>> kernel = linear_kernel()
    >>> float(hsic(x, x, x_kernel=kernel, y_kernel=kernel, estimator="biased"))  # variance^2
    0.0625
    """
    check_choice("hsic", "estimator", estimator, ESTIMATORS)
    left, right = _grams("hsic", x, y, x_kernel, y_kernel, 4 if estimator == "unbiased" else 2)
    return make_estimate(_inner(_center(left, estimator), _center(right, estimator), estimator), kind="not MI")


def normalized_hsic(
    x: Any, y: Any, *, x_kernel: Kernel | None = None, y_kernel: Kernel | None = None, ridge: float = 1e-5
) -> Estimate:
    r"""nHSIC, tr(R_x R_y) with R = HKH (HKH + ridge N I)^-1: HSIC in units of the kernels' own spectra.

    The squared Hilbert-Schmidt norm of the normalised cross-covariance operator. It counts directions that x and y
    share, each at most 1, so it grows with N as the ridge lets more of them in. O(N^3); in float32 eigenvalues of
    HKH / N below 1e-7 are rounding, so a ridge near it measures that. Differentiable as `hsic` is.

    Args:
        x: [N, dx] or [N] floating, N >= 2.
        y: [N, dy] or [N] floating.
        x_kernel: a positive definite `Kernel`; None is a Gaussian with `median_bandwidth`.
        y_kernel: the same for y.
        ridge: positive.

    Returns:
        An `Estimate` of kind "not MI" with ceiling N - 1, float32 (float64 where an input is).

    Raises:
        ValueError: shapes that do not pair, one row, wrong dtypes or kernels, a ridge that is not positive.

    Source: Fukumizu et al., "Kernel measures of conditional dependence" (2007), section 3; Ma, Lewis and Kleijn, "The
    HSIC bottleneck", arXiv:1908.01580, equation 4.

    >>> x, kernel = jnp.array([0.0, 1.0]), linear_kernel()
    >>> value = normalized_hsic(x, x, x_kernel=kernel, y_kernel=kernel, ridge=0.25)
    >>> round(float(value), 5)  # one eigenvalue, 1/2: (0.5 / (0.5 + 0.25 * 2))^2
    0.25
    """
    check_real("normalized_hsic", "ridge", ridge, 0.0, float("inf"), open_low=True, open_high=True)
    grams = _grams("normalized_hsic", x, y, x_kernel, y_kernel, 2)
    count = grams[0].shape[0]

    def resolve(gram):
        centered = center_gram(gram)
        regular = centered + ridge * count * jnp.eye(count, dtype=gram.dtype)
        return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(regular), centered)

    left, right = map(resolve, grams)
    return make_estimate(jnp.sum(left * right.T), kind="not MI", ceiling=count - 1.0)


def cka(
    x: Any, y: Any, *, x_kernel: Kernel | None = None, y_kernel: Kernel | None = None, estimator: str = "biased"
) -> Estimate:
    r"""Centred kernel alignment HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), the similarity of two representations.

    With the linear kernel invariant to rotations and isotropic scaling of each. "biased" lies in [0, 1] and tends to
    1 as d / N grows, whatever the data; "unbiased" has HSIC's unbiased estimates in all three places and may be
    negative.

    Args:
        x: [N, dx] or [N] floating, N >= 2 (4 for "unbiased").
        y: [N, dy] or [N] floating.
        x_kernel: a `Kernel`; None is the linear one.
        y_kernel: the same for y.
        estimator: "biased" or "unbiased".

    Returns:
        An `Estimate` of kind "not MI" with ceiling 1, float32 (float64 where an input is); 0 where x or y is constant.

    Raises:
        ValueError: shapes that do not pair, too few rows, wrong dtypes, kernels or estimator.

    Source: Kornblith et al., "Similarity of neural network representations revisited", arXiv:1905.00414, equation 4;
    Cortes, Mohri and Rostamizadeh, arXiv:1203.0550.

    >>> x = jnp.array([[0.0, 1.0], [2.0, 0.0], [5.0, 1.0]])
    >>> round(float(cka(x, 3.0 * x[:, ::-1] + 7.0)), 5)
    1.0
    """
    check_choice("cka", "estimator", estimator, ESTIMATORS)
    x_kernel = linear_kernel() if x_kernel is None else x_kernel
    y_kernel = linear_kernel() if y_kernel is None else y_kernel
    grams = _grams("cka", x, y, x_kernel, y_kernel, 4 if estimator == "unbiased" else 2)
    left, right = (_center(gram, estimator) for gram in grams)
    product = _inner(left, left, estimator) * _inner(right, right, estimator)
    constant = product == 0.0
    value = _inner(left, right, estimator) / jnp.sqrt(jnp.where(constant, 1.0, product))
    return make_estimate(jnp.where(constant, 0.0, value), kind="not MI", ceiling=1.0)


def _grams(function: str, x: Any, y: Any, x_kernel: Any, y_kernel: Any, least: int) -> tuple[Array, Array]:
    """Both Gram matrices, less a constant that centring forgets, so that those of constant data are exactly 0."""
    samples = paired_samples(function, x=x, y=y)
    check_rows(function, "x", samples[0], least)
    out = []
    for name, z, kernel in zip(("x_kernel", "y_kernel"), samples, (x_kernel, y_kernel), strict=True):
        if kernel is None:
            kernel = gaussian_kernel(median_bandwidth(z))
        check_instance(function, name, kernel, Kernel)
        if kernel.kind == "polynomial" and kernel.exponent == 1.0:
            z = z - z[0]  # centring forgets the offset, whose rounding it would keep
            z = z - jnp.mean(z, axis=0)
        gram = gram_matrix(z, kernel=kernel)
        # A kernel may take NaN for distance 0.
        out.append(jnp.where(jnp.all(jnp.isfinite(z)), gram - gram[0, 0], jnp.nan))
    return out[0], out[1]


def _center(gram: Array, estimator: str) -> Array:
    if estimator == "biased":
        return center_gram(gram)
    count = gram.shape[0]
    off = 1.0 - jnp.eye(count, dtype=gram.dtype)
    gram = gram * off
    rows = jnp.sum(gram, axis=1) / (count - 2)
    return off * (gram - rows[:, None] - rows + jnp.sum(rows) / (count - 1))


def _inner(left: Array, right: Array, estimator: str) -> Array:
    count = float(left.shape[0])  # its square as an integer may be beyond int32
    return jnp.sum(left * right) / (count * (count - 3) if estimator == "unbiased" else count**2)
