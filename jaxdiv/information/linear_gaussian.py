"""Mutual information of jointly Gaussian samples through their canonical correlations."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_flag, check_real, fail
from jaxdiv.information.arguments import check_rows, paired_samples
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.typing import Array


def gaussian_mutual_information(
    x: Any, y: Any, *, shrinkage: str | float | None = None, correct_bias: bool = False
) -> Estimate:
    r"""-1/2 sum_k log(1 - rho_k^2) over the canonical correlations rho_k of x and y.

    Consistent for jointly Gaussian data. Elsewhere it sees linear dependence alone and may be too low or too high.
    Invariant to invertible linear maps of x and of y; an exact linear relation gives infinity or a number that is
    rounding. Constant and collinear columns are left out.

    Its bias under Gaussian data is the same whatever the covariance, about dx dy / (2 N)::

        1/2 [sum_{i<dx} psi_i + sum_{i<dy} psi_i - sum_{i<dx+dy} psi_i],   psi_i = digamma((N - 1 - i) / 2)

    from the mean log-determinant of a Wishart matrix; ``correct_bias`` subtracts it. ``shrinkage`` instead takes the
    correlation matrix R of (x, y) to (1 - s) R + s I, which pulls the value down and works for N below dx + dy.
    Gradients go through singular vectors: they are not defined where correlations coincide.

    Args:
        x: [N, dx] or [N] floating.
        y: [N, dy] or [N] floating. N > dx + dy without shrinkage, N >= 2 with it.
        shrinkage: None; s in [0, 1]; or "ledoit_wolf", the s that estimates the smallest mean squared error of R.
        correct_bias: subtract the bias above; not with shrinkage.

    Returns:
        An `Estimate` of kind "plug-in", float32 (float64 where an input is), its standard error sqrt(sum rho^2 / N)
        that of Gaussian data. `info`: `correlations` [min(dx, dy)] descending, `shrinkage` s, and the `bias` that was
        subtracted.

    Raises:
        ValueError: shapes that do not pair, too few rows, wrong dtypes, a shrinkage that is none, both corrections.

    Source: Kraskov, Stoegbauer and Grassberger, arXiv:cond-mat/0305641, equation 11, for the formula; Misra, Singh and
    Demchuk (2005) for the log-determinant's mean; Ledoit and Wolf, "A well-conditioned estimator for large-dimensional
    covariance matrices" (2004), section 3.

    >>> x = jnp.array([1.0, 2.0, 3.0, 4.0])
    >>> y = jnp.array([1.0, 3.0, 2.0, 4.0])  # correlation 0.8
    >>> round(float(gaussian_mutual_information(x, y)), 6)  # -log(0.36) / 2
    0.510826
    """
    function = "gaussian_mutual_information"
    x, y = paired_samples(function, x=x, y=y)
    count, widths = x.shape[0], (x.shape[1], y.shape[1])
    check_flag(function, "correct_bias", correct_bias)
    if isinstance(shrinkage, str) and shrinkage != "ledoit_wolf":
        raise fail(function, "shrinkage", f"is {shrinkage!r}", "None, 'ledoit_wolf' or a number in [0, 1]")
    if shrinkage is not None and not isinstance(shrinkage, str):
        check_real(function, "shrinkage", shrinkage, 0.0, 1.0)
    if shrinkage is not None and correct_bias:
        raise fail(function, "correct_bias", "is True", "False with shrinkage, whose bias is not known")
    check_rows(function, "x", x, 2 if shrinkage is not None else sum(widths) + 1)

    left, right = _standardize(x) / count**0.5, _standardize(y) / count**0.5
    weight = jnp.zeros((), x.dtype)
    if shrinkage is not None:
        both = jnp.concatenate([left, right], axis=1)
        weight = _ledoit_wolf(both) if isinstance(shrinkage, str) else jnp.asarray(shrinkage, x.dtype)
        # Rows that make the Gram matrix of the samples (1 - s) R + s I: nothing is squared before it is decomposed.
        padded = jnp.concatenate(
            [jnp.sqrt(1.0 - weight) * both, jnp.sqrt(weight) * jnp.eye(sum(widths), dtype=x.dtype)]
        )
        left, right = padded[:, : widths[0]], padded[:, widths[0] :]
    (left, left_rank), (right, right_rank) = _basis(left), _basis(right)
    correlations = jnp.linalg.svd(jnp.matmul(left.T, right, precision="highest"), compute_uv=False)
    correlations = jnp.minimum(correlations, 1.0)
    # As two logarithms it would be no more accurate, and XLA's CPU compiler has been seen to take both for log1p(-rho).
    value = -0.5 * jnp.sum(jnp.log1p(-jnp.square(correlations)))

    bias = jnp.zeros((), x.dtype)
    if correct_bias:
        index = jnp.arange(sum(widths))
        psi = jax.scipy.special.digamma((count - 1 - index).astype(x.dtype) / 2.0)
        ranks = left_rank, right_rank, left_rank + right_rank
        sums = [jnp.sum(jnp.where(index < rank, psi, 0.0)) for rank in ranks]
        bias = 0.5 * (sums[0] + sums[1] - sums[2])
    finite = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(y))
    return make_estimate(
        jnp.where(finite, value - bias, jnp.nan),
        kind="plug-in",
        stderr=jnp.where(finite, jnp.sqrt(jnp.sum(correlations**2) / count), jnp.nan),
        correlations=jnp.where(finite, correlations, jnp.nan),
        shrinkage=weight,
        bias=bias,
    )


def _standardize(x: Array) -> Array:
    """Columns of mean 0 and variance 1; constant ones are exactly 0, their rounding not blown up."""
    x = x - x[0]
    scale = jnp.max(jnp.abs(x), axis=0)
    x = x / jnp.where(scale == 0.0, 1.0, scale)
    x = x - jnp.mean(x, axis=0)
    deviation = jnp.sqrt(jnp.mean(x * x, axis=0))
    return x / jnp.where(deviation == 0.0, 1.0, deviation)


def _basis(x: Array) -> tuple[Array, Array]:
    """An orthonormal basis of the columns' span, filled up with columns of 0, and its dimension."""
    q, r = jnp.linalg.qr(x)
    u, sigma, _ = jnp.linalg.svd(r, full_matrices=False)
    kept = sigma > 10 * x.shape[1] * jnp.finfo(x.dtype).eps * sigma[0]
    return jnp.matmul(q, u, precision="highest") * kept, jnp.sum(kept)


def _ledoit_wolf(z: Array) -> Array:
    """The weight of I for the correlation matrix of standardised columns / sqrt(N); constant ones count for nothing."""
    count = z.shape[0]
    gram = jnp.matmul(z.T, z, precision="highest")
    distance = jnp.sum(jnp.square(gram - jnp.diag(jnp.diagonal(gram))))
    # mean_k |z_k z_k^T - R|^2 / N for the samples z_k, which are sqrt(N) times the rows here.
    noise = jnp.sum(jnp.square(jnp.sum(z * z, axis=1))) - jnp.sum(gram * gram) / count
    weight = jnp.clip(noise, 0.0, distance) / jnp.where(distance == 0.0, 1.0, distance)
    return jnp.where(distance == 0.0, 1.0, weight)
