"""The information bottleneck of jointly Gaussian variables, exact: the oracle for every linear-Gaussian bottleneck.

With X and Y whitened, the cross-covariance has the canonical correlations rho_i as singular values, and T = A X + noise
decouples into one scalar problem for each. Component i is used from tishby_beta = 1 / rho_i^2 on.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxdiv.checks import check_scalar, check_shape, fail, floating_array
from jaxdiv.divergences.gaussian_pair import cholesky, matmul, solve, transposed
from jaxdiv.numerics import promote
from jaxdiv.typing import Array


class GaussianBottleneck(NamedTuple):
    """The optimal T = projection X + N(0, I) at one trade-off, in nats."""

    projection: Array
    """``[d_x, d_x]``: row i belongs to the i-th largest correlation, 0 where tishby_beta is below its critical one."""
    information_x: Array
    """I(X; T), the rate."""
    information_y: Array
    """I(T; Y), the relevance."""
    correlations: Array
    """``[d_x]``, the canonical correlations of X and Y, descending, 0 beyond min(d_x, d_y)."""
    critical_betas: Array
    """``[d_x]``, 1 / rho_i^2 ascending: below it component i carries nothing; infinite for a correlation of 0."""


def gaussian_information_bottleneck(
    covariance_x: Any, cross_covariance: Any, covariance_y: Any, *, tishby_beta: Any
) -> GaussianBottleneck:
    r"""The minimum of I(X; T) - tishby_beta I(T; Y) over all T that depend on X alone, for jointly Gaussian X and Y.

    With whitened directions v_i (v_i^T C_x v_j = 1 for i = j, else 0) of correlation rho_i, the rows of A are
    alpha_i v_i^T with alpha_i^2 = max(tishby_beta rho_i^2 - 1, 0) / (1 - rho_i^2), and

        I(X; T) = sum log(1 + alpha_i^2) / 2,   I(T; Y) = I(X; T) - sum log(1 + alpha_i^2 (1 - rho_i^2)) / 2.

    Tishby's beta weighs relevance: nothing is kept up to 1 / rho_1^2, everything at infinity. The objectives of
    `jaxdiv.information.bottleneck` weigh the rate, loss = prediction + beta rate: their beta is 1 / tishby_beta. The
    curve (I(X; T), I(T; Y)) comes from `jax.vmap` over tishby_beta.

    Args:
        covariance_x: ``[d_x, d_x]`` floating, symmetric positive definite.
        cross_covariance: ``[d_x, d_y]`` floating, E[(x - E x)(y - E y)^T].
        covariance_y: ``[d_y, d_y]`` floating, symmetric positive definite.
        tishby_beta: a number of at least 0, or a floating scalar array.

    Returns:
        `GaussianBottleneck`, float32 (float64 where an input is). The informations are differentiable in the
        covariances and in tishby_beta off the critical ones, the projection only where the correlations are distinct.
        Covariances that are not positive definite give NaN; a correlation of 1 an infinite information.

    Raises:
        ValueError: wrong shapes, dtypes or tishby_beta.

    Source: Chechik, Globerson, Tishby, Weiss, "Information bottleneck for Gaussian variables" (JMLR 6, 2005), theorem
    3.1, in whitened coordinates, where its eigenvalues are lambda_i = 1 - rho_i^2 and its r_i are 1.

    >>> result = gaussian_information_bottleneck([[1.0]], [[0.75]], [[1.0]], tishby_beta=4.0)
    >>> round(float(result.information_x), 4), round(float(result.critical_betas[0]), 4)  # log(27 / 7) / 2, 16 / 9
    (0.675, 1.7778)
    """
    function = "gaussian_information_bottleneck"
    given = {"covariance_x": covariance_x, "cross_covariance": cross_covariance, "covariance_y": covariance_y}
    cov_x, cross, cov_y = (promote(floating_array(function, name, value)) for name, value in given.items())
    if cross.ndim != 2 or 0 in cross.shape:
        raise fail(function, "cross_covariance", f"has shape {cross.shape}", "shape [d_x, d_y] with entries")
    check_shape(function, "covariance_x", cov_x, (cross.shape[0],) * 2)
    check_shape(function, "covariance_y", cov_y, (cross.shape[1],) * 2)
    check_scalar(function, "tishby_beta", tishby_beta, 0.0)
    dtype = jnp.result_type(cov_x, cross, cov_y)
    cov_x, cross, cov_y = cov_x.astype(dtype), cross.astype(dtype), cov_y.astype(dtype)
    beta = jnp.asarray(tishby_beta, dtype)

    scale_x = cholesky(cov_x)
    whitened = transposed(solve(cholesky(cov_y), transposed(solve(scale_x, cross))))
    squares, directions = jnp.linalg.eigh(matmul(whitened, whitened.T))
    explained, directions = jnp.clip(squares[::-1], 0.0, 1.0), directions[:, ::-1]

    gain = jnp.maximum(beta * explained - 1.0, 0.0)  # alpha_i^2 (1 - rho_i^2), without the division
    strength = jnp.where(gain > 0.0, gain / (1.0 - explained), gain)
    rate = jnp.sum(jnp.log1p(strength)) / 2.0
    rows = solve(scale_x, directions, transpose=True).T
    projection = jnp.where(gain[:, None] > 0.0, jnp.sqrt(jnp.where(gain > 0.0, strength, 1.0))[:, None] * rows, 0.0)
    return GaussianBottleneck(
        projection, rate, rate - jnp.sum(jnp.log1p(gain)) / 2.0, jnp.sqrt(explained), 1.0 / explained
    )
