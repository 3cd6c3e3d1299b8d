"""Cauchy-Schwarz dependence of kernel density estimates: quadratic mutual information, conditional divergence."""

from typing import Any

import jax.numpy as jnp

from jaxdiv.checks import check_choice, check_flag, check_same_shape, fail
from jaxdiv.divergences.two_sample.arguments import CHUNK_SIZE, check_chunk
from jaxdiv.divergences.two_sample.pairs import map_rows, squared_distances
from jaxdiv.information.arguments import check_positive, check_rows, paired_samples
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.typing import Array

VARIANTS = ("published", "released")


def cs_qmi(x: Any, y: Any, *, sigma: Any = 1.0, normalized: bool = False, chunk_size: int = CHUNK_SIZE) -> Estimate:
    r"""Cauchy-Schwarz quadratic mutual information, D_CS(p(x, y); p(x) p(y)) of Gaussian kernel density estimates.

    With K and Q the Gram matrices of exp(-|.|^2 / (2 sigma^2)), entrywise products and means over all N^2 pairs::

        log mean(K * Q) + log(mean K mean Q) - 2 log mean_i[(mean_j K_ij) (mean_j Q_ij)]

    It is no mutual information: at any N it measures the smoothed law, the data plus independent noise of variance
    sigma^2 / 2 in every coordinate, and moves with sigma. Compare values at one sigma only. Its plug-in bias is
    positive and about 1 / (N sigma^d). At least 0 up to rounding, 0 where x or y is constant. O(N^2 d) time, O(N
    chunk_size) memory; differentiable in x, y and sigma.

    Args:
        x: [N, dx] or [N] floating, N >= 2.
        y: [N, dy] or [N] floating.
        sigma: the kernels' width, a positive number or a scalar array; a tuple of two for (x, y).
        normalized: divide by sqrt(I(x; x) I(y; y)); then x = y gives 1, and 0 / 0 counts as 0.
        chunk_size: rows of the Gram matrices that exist at once.

    Returns:
        An `Estimate` of kind "not MI", float32 (float64 where an input is); `info["sigma"]` is [2].

    Raises:
        ValueError: shapes that do not pair, one row, wrong dtypes, a sigma that is not positive.

    Source: Yu et al., "Cauchy-Schwarz divergence information bottleneck for regression", arXiv:2404.17951,
    proposition 2; Principe, "Information theoretic learning" (2010), chapter 2.

    >>> x = jnp.array([0.0, 100.0])  # two points far apart: K = Q = I
    >>> round(float(cs_qmi(x, x)), 6)  # log 2
    0.693147
    """
    x, y = paired_samples("cs_qmi", x=x, y=y)
    check_rows("cs_qmi", "x", x, 2)
    widths = _sigmas("cs_qmi", sigma, x.dtype)
    check_flag("cs_qmi", "normalized", normalized)
    check_chunk("cs_qmi", chunk_size)
    value = _quadratic(x / widths[0], y / widths[1], chunk_size)
    if normalized:
        own = [jnp.maximum(_quadratic(z / w, z / w, chunk_size), 0.0) for z, w in zip((x, y), widths, strict=True)]
        product = own[0] * own[1]
        value = jnp.where(product == 0.0, 0.0, value / jnp.sqrt(jnp.where(product == 0.0, 1.0, product)))
    return make_estimate(value, kind="not MI", sigma=widths)


def conditional_cauchy_schwarz(
    x: Any,
    y: Any,
    prediction: Any,
    *,
    sigma: Any = 1.0,
    variant: str = "published",
    chunk_size: int = CHUNK_SIZE,
) -> Estimate:
    r"""Conditional Cauchy-Schwarz divergence D_CS(p(y | x); q(prediction | x)), the prediction term of CS-IB.

    With K on x, L on y, M on predictions and C_ji = k(prediction_j, y_i), Gaussian kernels::

        log S(L) + log S(M) - 2 log S(C),   S(G) = sum_j sum_i K_ji G_ji / d_j

    "published" has d_j = (sum_i K_ji)^2, proposition 1; "released" has d_j = sum_i K_ji^2, which the authors' code
    computes. It is 0 where the prediction equals y; a sum over i alone is no inner product, so elsewhere the estimate
    may fall below 0. O(N^2 d) time, O(N chunk_size) memory; differentiable in all three arrays and sigma.

    Args:
        x: [N, dx] or [N] floating, N >= 2.
        y: [N, dy] or [N] floating.
        prediction: y's shape.
        sigma: the kernels' width, a positive number or a scalar array; a tuple of two for (x, y and prediction).
        variant: "published" or "released".
        chunk_size: rows of the Gram matrices that exist at once.

    Returns:
        An `Estimate` of kind "not MI", float32 (float64 where an input is); `info["sigma"]` is [2].

    Raises:
        ValueError: shapes that do not pair, one row, wrong dtypes, a sigma that is not positive, an unknown variant.

    Source: Yu et al., "Cauchy-Schwarz divergence information bottleneck for regression", arXiv:2404.17951,
    proposition 1.

    >>> x, y = jnp.array([0.0, 1.0]), jnp.zeros(2)
    >>> round(float(conditional_cauchy_schwarz(x, y, y + 1.0)), 6)  # one point of y, one of prediction: (1 - 0)^2 / 1
    1.0
    """
    function = "conditional_cauchy_schwarz"
    x, y, prediction = paired_samples(function, x=x, y=y, prediction=prediction)
    check_same_shape(function, y=y, prediction=prediction)
    check_rows(function, "x", x, 2)
    widths = _sigmas(function, sigma, x.dtype)
    check_choice(function, "variant", variant, VARIANTS)
    check_chunk(function, chunk_size)
    x, y, prediction = x / widths[0], y / widths[1], prediction / widths[1]

    def row_sums(x_rows, y_rows, prediction_rows, _):
        kernel = _gram(x_rows, x)
        squares = jnp.square(jnp.sum(kernel, axis=1)) if variant == "published" else jnp.sum(kernel * kernel, axis=1)
        pairs = (y_rows, y), (prediction_rows, prediction), (prediction_rows, y)
        return jnp.stack([jnp.sum(kernel * _gram(*pair), axis=1) / squares for pair in pairs], axis=1)

    sums = jnp.log(jnp.sum(map_rows(row_sums, x, y, prediction, chunk_size=chunk_size), axis=0))
    return make_estimate(sums[0] + sums[1] - 2.0 * sums[2], kind="not MI", sigma=widths)


def _gram(a: Array, b: Array) -> Array:
    return jnp.exp(-0.5 * squared_distances(a, b))


def _quadratic(x: Array, y: Array, chunk_size: int) -> Array:
    """CS-QMI of samples in units of their widths; the product of the Gram matrices is never formed."""

    def row_means(x_rows, y_rows, _):
        left, right = _gram(x_rows, x), _gram(y_rows, y)
        return jnp.mean(left * right, axis=1), jnp.mean(left, axis=1), jnp.mean(right, axis=1)

    joint, left, right = map_rows(row_means, x, y, chunk_size=chunk_size)
    marginals = jnp.log(jnp.mean(left)) + jnp.log(jnp.mean(right))
    return jnp.log(jnp.mean(joint)) + marginals - 2.0 * jnp.log(jnp.mean(left * right))


def _sigmas(function: str, sigma: Any, dtype: Any) -> Array:
    pair = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    if len(pair) != 2:
        raise fail(function, "sigma", f"has {len(pair)} entries", "a positive number or a tuple of two")
    for width in pair:
        check_positive(function, "sigma", width)
    return jnp.stack([jnp.asarray(width, dtype) for width in pair])
