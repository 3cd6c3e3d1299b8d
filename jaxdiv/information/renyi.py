"""Matrix-based Renyi entropy: the entropy of a Gram matrix's eigenvalues, and the mutual information made of three."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_instance, check_real, fail
from jaxdiv.divergences import Kernel, gaussian_kernel, gram_matrix, median_bandwidth
from jaxdiv.information.arguments import check_rows, paired_samples
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.typing import Array

KINDS = ("gaussian", "laplace", "power")


def matrix_renyi_entropy(x: Any, *, kernel: Kernel | None = None, alpha: float = 1.01) -> Estimate:
    r"""S_alpha(A) = log(sum_i lambda_i^alpha) / (1 - alpha) over the eigenvalues of A = K / N, in nats.

    Between 0, where all points coincide, and log N, where none sees another: the kernel's width decides, and it is no
    entropy of the law of x. alpha = 1 is the von Neumann entropy -sum lambda log lambda; alpha = 2 is -log of the sum
    of the squared entries of A and takes O(N^2), any other alpha O(N^3). Eigenvalues below the rounding of the
    decomposition count as 0. Differentiable in x and a given kernel's bandwidth; the median bandwidth is held fixed.

    Args:
        x: [N, d] or [N] floating, N >= 2.
        kernel: a `Kernel` with k(x, x) = 1: Gaussian, Laplace or rational quadratic; None is a Gaussian with
            `median_bandwidth`.
        alpha: positive.

    Returns:
        An `Estimate` of kind "not MI" with ceiling log N, float32 (float64 where x is).

    Raises:
        ValueError: wrong shapes or dtypes, one row, another kernel, an alpha that is not positive.

    Source: Giraldo, Rao and Principe, "Measures of entropy from data using infinitely divisible kernels",
    arXiv:1211.2459, definition of the matrix-based entropy.

    >>> far = jnp.array([0.0, 1e3, 2e3])
    >>> round(float(matrix_renyi_entropy(far, kernel=gaussian_kernel(1.0), alpha=2.0)), 6)  # log 3
    1.098612
    """
    (x,) = paired_samples("matrix_renyi_entropy", x=x)
    gram = _gram("matrix_renyi_entropy", "kernel", x, kernel)
    return make_estimate(_entropy("matrix_renyi_entropy", gram, alpha), kind="not MI", ceiling=np.log(x.shape[0]))


def matrix_renyi_mutual_information(
    x: Any, y: Any, *, x_kernel: Kernel | None = None, y_kernel: Kernel | None = None, alpha: float = 1.01
) -> Estimate:
    r"""S_alpha(A) + S_alpha(B) - S_alpha(N A * B) with A = K / N on x and B = L / N on y, in nats.

    Like the entropies, it moves with the kernels' widths between 0 and log N and estimates no Shannon information.
    Exactly 0 where x or y is constant. Costs and derivatives are those of `matrix_renyi_entropy`.

    Args:
        x: [N, dx] or [N] floating, N >= 2.
        y: [N, dy] or [N] floating.
        x_kernel: as in `matrix_renyi_entropy`.
        y_kernel: the same for y.
        alpha: positive.

    Returns:
        An `Estimate` of kind "not MI" with ceiling log N, float32 (float64 where an input is).

    Raises:
        ValueError: shapes that do not pair, wrong dtypes, one row, another kernel, an alpha that is not positive.

    Source: Giraldo, Rao and Principe, arXiv:1211.2459; Yu et al., "Multivariate extension of matrix-based Renyi's
    alpha-order entropy functional", arXiv:1808.07912, section II.

    >>> far = jnp.array([0.0, 1e3, 2e3])
    >>> kernel = gaussian_kernel(1.0)
    >>> value = matrix_renyi_mutual_information(far, far, x_kernel=kernel, y_kernel=kernel, alpha=2.0)
    >>> round(float(value), 6)  # log 3
    1.098612
    """
    function = "matrix_renyi_mutual_information"
    x, y = paired_samples(function, x=x, y=y)
    left, right = _gram(function, "x_kernel", x, x_kernel), _gram(function, "y_kernel", y, y_kernel)
    own, other, joint = (_entropy(function, gram, alpha) for gram in (left, right, left * right))
    # Ordered so that a constant side, whose entropy is 0 and whose joint Gram matrix is the other's, gives exactly 0.
    value = jnp.where(own < other, own + (other - joint), other + (own - joint))
    return make_estimate(value, kind="not MI", ceiling=np.log(x.shape[0]))


def _gram(function: str, argument: str, x: Array, kernel: Any) -> Array:
    check_rows(function, "x", x, 2)
    if kernel is None:
        kernel = gaussian_kernel(median_bandwidth(x))
    check_instance(function, argument, kernel, Kernel)
    if kernel.kind not in KINDS:
        raise fail(function, argument, f"has kind {kernel.kind!r}", "one with k(x, x) = 1: " + ", ".join(KINDS))
    gram = jnp.where(jnp.eye(x.shape[0], dtype=bool), 1.0, gram_matrix(x, kernel=kernel))
    return jnp.where(jnp.all(jnp.isfinite(x)), gram, jnp.nan)  # a kernel may take NaN for distance 0


def _entropy(function: str, gram: Array, alpha: Any) -> Array:
    """Of gram / N, whose trace is 1."""
    check_real(function, "alpha", alpha, 0.0, np.inf, open_low=True, open_high=True)
    count = gram.shape[0]
    if alpha == 2:
        return -jnp.log(jnp.mean(jnp.square(gram)))
    known = jnp.all(jnp.isfinite(gram))
    spectrum = jnp.linalg.eigvalsh(jnp.where(known, gram, 0.0)) / count
    spectrum = jnp.where(spectrum <= count * jnp.finfo(gram.dtype).eps * spectrum[-1], 0.0, spectrum)
    spectrum = spectrum / jnp.where(known, jnp.sum(spectrum), 1.0)
    logs = jnp.log(jnp.where(spectrum == 0.0, 1.0, spectrum))
    if alpha == 1:
        value = -jnp.sum(spectrum * logs)
    elif abs(alpha - 1.0) < 0.5:  # sum lambda^alpha - 1 without the cancellation
        value = jnp.log1p(jnp.sum(spectrum * jnp.expm1((alpha - 1.0) * logs))) / (1.0 - alpha)
    else:
        value = jnp.log(jnp.sum(jnp.where(spectrum == 0.0, 0.0, jnp.exp(alpha * logs)))) / (1.0 - alpha)
    return jnp.where(known, value, jnp.nan)
