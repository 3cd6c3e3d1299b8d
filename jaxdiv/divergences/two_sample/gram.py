"""Gram matrices: whole, as products and as means a block of rows at a time, centred; the median bandwidth."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_integer, check_shape, fail, floating_array
from jaxdiv.divergences.two_sample.arguments import CHUNK_SIZE, check_chunk, sample_matrices
from jaxdiv.divergences.two_sample.kernels import Kernel, check_kernel, gaussian_kernel
from jaxdiv.divergences.two_sample.pairs import map_rows, squared_distances, strided
from jaxdiv.numerics import promote

_SHIFT_ROWS = 256


def center(kernel: Kernel, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both sets relative to y's mean where the kernel sees only differences: then the expansion cancels less.

    >>> center(Kernel("polynomial", 1.0), jnp.ones((1, 1)), jnp.ones((1, 1)))[0].item()
    1.0
    """
    if not kernel.is_radial:
        return x, y
    middle = jax.lax.stop_gradient(jnp.mean(y, axis=0))
    return x - middle, y - middle


def gram_block(kernel: Kernel, x: jax.Array, y: jax.Array) -> jax.Array:
    """The kernel between all rows of two matrices, [n, m] at once.

    >>> gram_block(gaussian_kernel(1.0), jnp.zeros((1, 2)), jnp.zeros((3, 2))).tolist()
    [[1.0, 1.0, 1.0]]
    """
    if kernel.is_radial:
        return kernel.profile(squared_distances(x, y, kernel.distances))
    return kernel.profile(jnp.matmul(x, y.T, precision="highest"))


def gram_diagonal(kernel: Kernel, x: jax.Array) -> jax.Array:
    """k(x_i, x_i), [n].

    >>> gram_diagonal(gaussian_kernel(1.0), jnp.ones((2, 3))).tolist()
    [1.0, 1.0]
    """
    return kernel.profile(jnp.zeros_like(x[:, 0]) if kernel.is_radial else jnp.sum(x * x, axis=1))


def typical_value(kernel: Kernel, x: jax.Array, y: jax.Array) -> jax.Array:
    """The kernel's mean between 256 rows of each set: subtracted before a sum, it saves the sum's low digits.

    >>> float(typical_value(Kernel("polynomial", 1.0), jnp.ones((4, 2)), jnp.ones((9, 2))))
    2.0
    """
    x, y = strided(jax.lax.stop_gradient(x), _SHIFT_ROWS), strided(jax.lax.stop_gradient(y), _SHIFT_ROWS)
    return jax.lax.stop_gradient(jnp.mean(gram_block(kernel, *center(kernel, x, y))))


class ShiftedMean(NamedTuple):
    """A mean kept as shift + rest, so that a difference or ratio of two keeps the digits that their sizes share."""

    shift: jax.Array
    rest: jax.Array


class GramMeans(NamedTuple):
    """Means of a kernel within and between two samples."""

    within_p: ShiftedMean
    within_q: ShiftedMean
    between: ShiftedMean


def kernel_mean(
    kernel: Kernel, x: jax.Array, y: jax.Array | None, *, unbiased: bool = False, chunk_size: int
) -> ShiftedMean:
    """The mean of k(x_i, y_j); of k(x_i, x_j) if y is None, where ``unbiased`` leaves the pairs i = j out.

    >>> mean = kernel_mean(Kernel("polynomial", 1.0), jnp.ones((4, 2)), jnp.ones((9, 2)), chunk_size=8)
    >>> float(mean.shift), float(mean.rest)
    (2.0, 0.0)
    """
    within = y is None
    other = x if y is None else y
    shift = typical_value(kernel, x, other)
    left, right = center(kernel, x, other)
    columns = jnp.arange(right.shape[0])

    def row_sums(rows, index):
        values = gram_block(kernel, rows, right) - shift
        # The pair of a point with itself is known: it must not carry the rounding of a computed distance.
        return jnp.sum(jnp.where(index[:, None] == columns, 0.0, values) if within else values, axis=1)

    n = x.shape[0]
    rest = jnp.sum(map_rows(row_sums, left, chunk_size=chunk_size) / right.shape[0]) / n
    if within and unbiased:
        rest = rest * (n / (n - 1))
    elif within:
        rest = rest + jnp.sum(gram_diagonal(kernel, x) - shift) / float(n) ** 2
    return ShiftedMean(shift, rest)


def gram_means(kernel: Kernel, p: jax.Array, q: jax.Array, *, unbiased: bool, chunk_size: int) -> GramMeans:
    """The three means that MMD and its relatives are made of, block by block.

    >>> p, kernel = jnp.ones((2, 1)), Kernel("polynomial", 1.0)
    >>> [float(sum(mean)) for mean in gram_means(kernel, p, 3.0 * p, unbiased=False, chunk_size=8)]
    [1.0, 9.0, 3.0]
    """
    return GramMeans(
        kernel_mean(kernel, p, None, unbiased=unbiased, chunk_size=chunk_size),
        kernel_mean(kernel, q, None, unbiased=unbiased, chunk_size=chunk_size),
        kernel_mean(kernel, p, q, chunk_size=chunk_size),
    )


def gram_matrix(x: Any, y: Any = None, *, kernel: Kernel) -> jax.Array:
    """The kernel between all rows of x and of y (of x itself if y is None), held whole.

    Args:
        x: [n, d] floating.
        y: [m, d] floating.
        kernel: a `Kernel`.

    Returns:
        [n, m] float32 (float64 where an input is); with y None symmetric to rounding.

    Raises:
        ValueError: wrong shapes, dtypes or kernel.

    >>> from jaxdiv.divergences.two_sample.kernels import linear_kernel
    >>> gram_matrix(jnp.array([[1.0], [2.0]]), kernel=linear_kernel()).tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """
    check_kernel("gram_matrix", kernel)
    x, y = sample_matrices("gram_matrix", x=x, y=x if y is None else y)
    return gram_block(kernel, *center(kernel, x, y))


def gram_product(vectors: Any, *, x: Any, y: Any = None, kernel: Kernel, chunk_size: int = CHUNK_SIZE) -> jax.Array:
    r"""K @ vectors with K_ij = k(x_i, y_j) made a block of rows at a time: O(chunk_size m) memory.

    Differentiable in x, y, vectors and the kernel's bandwidth; reverse mode makes the blocks again.

    Args:
        vectors: [m, r] floating.
        x: [n, d] floating.
        y: [m, d] floating; None for x itself.
        kernel: a `Kernel`.
        chunk_size: rows of K that exist at once.

    Returns:
        [n, r] float32 (float64 where an input is).

    Raises:
        ValueError: wrong shapes, dtypes, kernel or chunk size.

    >>> from jaxdiv.divergences.two_sample.kernels import linear_kernel
    >>> gram_product(jnp.array([[1.0], [1.0]]), x=jnp.array([[1.0], [2.0]]), kernel=linear_kernel()).tolist()
    [[3.0], [6.0]]
    """
    check_kernel("gram_product", kernel)
    check_chunk("gram_product", chunk_size)
    x, y = sample_matrices("gram_product", x=x, y=x if y is None else y)
    vectors = promote(floating_array("gram_product", "vectors", vectors))
    check_shape("gram_product", "vectors", vectors, (y.shape[0], None))
    x, y = center(kernel, x, y)

    def product(rows, _):
        return jnp.matmul(gram_block(kernel, rows, y), vectors, precision="highest")

    return map_rows(product, x, chunk_size=chunk_size)


def center_gram(gram: Any) -> jax.Array:
    r"""H K H with H = I - 1 1^T / n: the Gram matrix of features less their mean, as HSIC needs it.

    HSIC = sum(center_gram(K) * L) / n^2 of two Gram matrices on the same examples; its rows and columns sum to 0.

    Args:
        gram: [..., n, n] floating.

    Returns:
        [..., n, n], float32 (float64 for float64).

    Raises:
        ValueError: not square, empty, or not floating.

    Source: Gretton et al., "Measuring statistical dependence with Hilbert-Schmidt norms" (2005), section 3.1.

    >>> center_gram(jnp.array([[1.0, 0.0], [0.0, 1.0]])).tolist()
    [[0.5, -0.5], [-0.5, 0.5]]
    """
    gram = promote(floating_array("center_gram", "gram", gram))
    if gram.ndim < 2 or gram.shape[-1] != gram.shape[-2] or gram.shape[-1] == 0:
        raise fail("center_gram", "gram", f"has shape {gram.shape}", "shape (..., n, n), n >= 1")
    gram = gram - jnp.mean(gram, axis=-1, keepdims=True)
    return gram - jnp.mean(gram, axis=-2, keepdims=True)


def median_bandwidth(p_samples: Any, q_samples: Any = None, *, max_samples: int = 1000) -> jax.Array:
    """The median heuristic: the median distance between distinct points of both samples together.

    The points are those at even distances in p_samples followed by q_samples, every floor(N / max_samples)-th: all of
    them up to N = max_samples. Pairs at distance 0 do not count, so duplicates cannot make it 0; if all points
    coincide it is 1. No gradient flows into it.

    Args:
        p_samples: [n, d] floating, n + m >= 2.
        q_samples: [m, d] floating, or None.
        max_samples: at least 2; memory is its square.

    Returns:
        A positive scalar, float32 (float64 where an input is).

    Raises:
        ValueError: wrong shapes, dtypes or count.

    >>> float(median_bandwidth(jnp.array([[0.0], [0.0], [3.0], [7.0]])))  # of 3, 3, 4, 7, 7
    4.0
    """
    check_integer("median_bandwidth", "max_samples", max_samples, 2)
    given = {"p_samples": p_samples} | ({} if q_samples is None else {"q_samples": q_samples})
    pooled = jnp.concatenate(sample_matrices("median_bandwidth", **given))
    if pooled.shape[0] < 2:
        raise fail("median_bandwidth", "p_samples", "has 1 row", "at least 2 points in all")
    points = jax.lax.stop_gradient(strided(pooled, max_samples))
    squared = squared_distances(points, points, "direct")[jnp.triu_indices(points.shape[0], 1)]
    median = jnp.nanmedian(jnp.sqrt(jnp.where(squared > 0.0, squared, jnp.nan)))
    median = jnp.where(jnp.any(squared > 0.0), median, 1.0)
    return jnp.where(jnp.any(jnp.isnan(squared)), jnp.nan, median).astype(pooled.dtype)


def default_kernel(function: str, kernel: Any, *samples: jax.Array) -> Kernel:
    """The kernel given, or the Gaussian one with the median bandwidth.

    >>> float(default_kernel("f", None, jnp.array([[0.0], [2.0]])).bandwidth)
    2.0
    """
    if kernel is None:
        return gaussian_kernel(median_bandwidth(*samples))
    check_kernel(function, kernel)
    return kernel
