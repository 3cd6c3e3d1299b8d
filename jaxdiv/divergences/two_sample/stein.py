"""The kernel Stein discrepancy of samples from a density known through its score, and its bootstrap test."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_integer, check_key, check_same_shape, fail
from jaxdiv.divergences.two_sample.arguments import (
    CHUNK_SIZE,
    check_chunk,
    check_option,
    sample_matrices,
)
from jaxdiv.divergences.two_sample.gram import median_bandwidth
from jaxdiv.divergences.two_sample.kernels import Kernel, check_kernel, inverse_multiquadric_kernel
from jaxdiv.divergences.two_sample.mmd import ESTIMATORS
from jaxdiv.divergences.two_sample.pairs import map_rows, squared_distances
from jaxdiv.divergences.two_sample.permutation import PermutationTest, summarize


def _slopes(kernel: Kernel, s: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """phi(s), phi'(s), phi''(s) of the kernel's profile."""
    ones = jnp.ones_like(s)

    def slope(t):
        return jax.jvp(kernel.profile, (t,), (ones,))

    (value, first), (_, second) = jax.jvp(slope, (s,), (ones,))
    return value, first, second


def _stein_block(kernel, x, score, y, score_y) -> jax.Array:
    """u(x_i, y_j) for all pairs, from three products of widths d, d and 2 d."""
    s = squared_distances(x, y, kernel.distances)
    phi, first, second = _slopes(kernel, s)
    inner = jnp.matmul(score, score_y.T, precision="highest")
    left, right = jnp.concatenate([x, score], axis=1), jnp.concatenate([score_y, y], axis=1)
    crossed = jnp.matmul(left, right.T, precision="highest")  # x.s' + s.y
    own = jnp.sum(x * score, axis=1)[:, None] + jnp.sum(y * score_y, axis=1)
    return inner * phi + 2.0 * first * (crossed - own - x.shape[1]) - 4.0 * s * second


def _stein_diagonal(kernel, score) -> jax.Array:
    """u(x_i, x_i)."""
    zero = jnp.zeros_like(score[:, 0])
    phi, first, _ = _slopes(kernel, zero)
    return jnp.sum(score * score, axis=1) * phi - 2.0 * score.shape[1] * first


def _prepare(function, p_samples, q_score, kernel, estimator, chunk_size):
    check_option(function, "estimator", estimator, ESTIMATORS)
    check_chunk(function, chunk_size)
    (x,) = sample_matrices(function, min_rows=2 if estimator == "unbiased" else 1, p_samples=p_samples)
    scores = q_score(x) if callable(q_score) else q_score
    (score,) = sample_matrices(function, q_score=scores)
    check_same_shape(function, p_samples=x, q_score=score)
    if kernel is None:
        kernel = inverse_multiquadric_kernel(median_bandwidth(x) if x.shape[0] > 1 else 1.0)
    check_kernel(function, kernel)
    if not kernel.is_smooth:
        raise fail(function, "kernel", f"is of kind {kernel.kind!r}", "one that is smooth at 0: Gaussian or quadratic")
    dtype = jnp.result_type(x, score)
    x = x.astype(dtype)
    return x - jax.lax.stop_gradient(jnp.mean(x, axis=0)), score.astype(dtype), kernel


def _off_diagonal(kernel, x, score, reduce_fn, chunk_size):
    """reduce_fn of blocks of u(x_i, x_j) with zeros at i = j, over all blocks of rows."""
    columns = jnp.arange(x.shape[0])

    def block(rows, scores, index):
        values = _stein_block(kernel, rows, scores, x, score)
        return reduce_fn(jnp.where(index[:, None] == columns, 0.0, values))

    return map_rows(block, x, score, chunk_size=chunk_size)


def squared_ksd(
    *,
    p_samples: Any,
    q_score: Any,
    kernel: Kernel | None = None,
    estimator: str = "unbiased",
    chunk_size: int = CHUNK_SIZE,
) -> jax.Array:
    r"""The squared kernel Stein discrepancy E u(x, x'), x, x' ~ p, of samples from the density q with score s.

    u(x, y) = s(x).s(y) k + s(x).\nabla_y k + s(y).\nabla_x k + tr \nabla_x \nabla_y k with s = \nabla log q: needs no
    normaliser of q and no samples from it. Its mean under q is 0. "unbiased" (the U-statistic) leaves out the pairs
    i = j and may be negative; "biased" (the V-statistic) is at least 0 up to rounding.

    Args:
        p_samples: [n, d] floating, n >= 2 if unbiased.
        q_score: [n, d] scores at the samples, or a function that takes the samples to them. With an array, gradients
            see the scores as constants of the samples.
        kernel: Gaussian, rational quadratic or inverse multiquadric; None for `inverse_multiquadric_kernel` with
            exponent 1/2 at the `median_bandwidth` of the samples.
        estimator: "unbiased" or "biased".
        chunk_size: rows of pair matrices that exist at once: memory is O(chunk_size n).

    Returns:
        A scalar, float32 (float64 where an input is). Differentiable in samples, scores and bandwidth.

    Raises:
        ValueError: wrong shapes, dtypes, kernel, estimator or chunk size.

    Source: Liu, Lee, Jordan, "A kernelized Stein discrepancy for goodness-of-fit tests", arXiv:1602.03253, theorem 3.6
    and equation 14; the form in distances is derived here.

    >>> from jaxdiv.divergences.two_sample.kernels import gaussian_kernel
    >>> x = jnp.array([[1.0], [-1.0]])  # s(x) = -x for the standard normal; u(1, -1) = e^-2 (-1 - 4 + 1 - 4)
    >>> round(float(squared_ksd(p_samples=x, q_score=jnp.negative, kernel=gaussian_kernel(1.0))), 5)
    -1.08268
    """
    x, score, kernel = _prepare("squared_ksd", p_samples, q_score, kernel, estimator, chunk_size)
    n = x.shape[0]
    total = jnp.sum(_off_diagonal(kernel, x, score, lambda u: jnp.sum(u, axis=1) / n, chunk_size)) / n
    if estimator == "unbiased":
        return total * (n / (n - 1))
    return total + jnp.sum(_stein_diagonal(kernel, score)) / float(n) ** 2


def stein_bootstrap_test(
    key: jax.Array,
    *,
    p_samples: Any,
    q_score: Any | Callable[[jax.Array], jax.Array],
    kernel: Kernel | None = None,
    num_bootstrap: int = 200,
    chunk_size: int = CHUNK_SIZE,
) -> PermutationTest:
    r"""Tests whether independent samples come from the density with this score: the wild bootstrap in one pass.

    With one sample there are no labels to permute; random signs w take their place. The statistic is the unbiased
    `squared_ksd`, sum_{i != j} u(x_i, x_j) / (n (n - 1)), and the null is the same sum of w_i w_j u(x_i, x_j), which
    for large n has the statistic's law under p = q. All sign vectors are columns of one product with blocks of u,
    at the device's default precision, where signs are exact. The level holds asymptotically, not exactly.

    Args:
        key: a typed key.
        p_samples: [n, d] floating, n >= 2.
        q_score: [n, d] scores at the samples, or a function that takes the samples to them.
        kernel: as in `squared_ksd`.
        num_bootstrap: number of sign vectors.
        chunk_size: rows of pair matrices that exist at once: memory is O(n (chunk_size + num_bootstrap)).

    Returns:
        A `PermutationTest`, float32 (float64 where an input is). Not meant to be differentiated.

    Raises:
        ValueError: wrong shapes, dtypes, key, kernel or counts.

    Source: Chwialkowski, Strathmann, Gretton, "A kernel test of goodness of fit", arXiv:1602.02964, section 4, with
    independent signs.

    >>> x = jax.random.normal(jax.random.key(0), (100, 1))
    >>> bool(stein_bootstrap_test(jax.random.key(1), p_samples=x + 1.0, q_score=jnp.negative).p_value < 0.01)
    True
    """
    function = "stein_bootstrap_test"
    check_key(function, key)
    check_integer(function, "num_bootstrap", num_bootstrap, 1)
    x, score, kernel = _prepare(function, p_samples, q_score, kernel, "unbiased", chunk_size)
    n = x.shape[0]
    signs = jax.random.rademacher(key, (n, num_bootstrap), x.dtype)
    vectors = jnp.concatenate([jnp.ones((n, 1), x.dtype), signs], axis=1)
    products = _off_diagonal(kernel, x, score, lambda u: jnp.matmul(u, vectors, precision="default"), chunk_size)
    values = jnp.sum(vectors * (products / n), axis=0) / (n - 1)
    return summarize(values[0], values[1:])
