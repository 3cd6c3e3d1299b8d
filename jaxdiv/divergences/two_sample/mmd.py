"""Squared MMD, energy distance and the kernel Cauchy-Schwarz divergence: three ways to combine three kernel means."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_real, fail
from jaxdiv.divergences.two_sample.arguments import CHUNK_SIZE, check_chunk, check_option, sample_matrices
from jaxdiv.divergences.two_sample.gram import GramMeans, default_kernel, gram_means
from jaxdiv.divergences.two_sample.kernels import Kernel, distance_kernel

ESTIMATORS = ("biased", "unbiased")


def combine_mmd(means: GramMeans) -> jax.Array:
    """E k(x, x') + E k(y, y') - 2 E k(x, y): nearby shifts subtract without rounding.

    >>> from jaxdiv.divergences.two_sample.gram import ShiftedMean
    >>> mean = ShiftedMean(0.5, 0.125)
    >>> combine_mmd(GramMeans(mean, mean, ShiftedMean(0.5, 0.0)))
    0.25
    """
    p, q, between = means
    return (p.shift - between.shift) + (q.shift - between.shift) + (p.rest + q.rest - 2.0 * between.rest)


def combine_cauchy_schwarz(means: GramMeans) -> jax.Array:
    """Log E k(x, x') + log E k(y, y') - 2 log E k(x, y), from the ratios of shifts and of rests, all near 1 for p = q.

    >>> from jaxdiv.divergences.two_sample.gram import ShiftedMean
    >>> mean = ShiftedMean(0.5, 0.0)
    >>> round(float(combine_cauchy_schwarz(GramMeans(mean, mean, ShiftedMean(0.25, 0.0)))), 6)  # 2 log 2
    1.386294
    """
    tiny = jnp.finfo(jnp.result_type(means.between.shift)).tiny
    # Typical values may underflow to 0 where means do not. A mean of positive numbers is positive: a ratio below -1 is
    # rounding, and its logarithm would be NaN.
    bases = [jnp.maximum(mean.shift, tiny) for mean in means]
    ratios = [(mean.rest + (mean.shift - base)) / base for mean, base in zip(means, bases, strict=True)]
    apart = ratios[2] <= -1.0
    rest_p, rest_q, rest = (jnp.log1p(jnp.where(apart, 0.0, jnp.maximum(ratio, -1.0))) for ratio in ratios)
    base_p, base_q, base = bases
    value = jnp.log1p((base_p - base) / base) + jnp.log1p((base_q - base) / base) + (rest_p + rest_q - 2.0 * rest)
    return jnp.where(apart, jnp.inf, value)


COMBINE = {"mmd": combine_mmd, "cauchy_schwarz": combine_cauchy_schwarz}


def _means(function, p_samples, q_samples, kernel, estimator, chunk_size) -> GramMeans:
    check_option(function, "estimator", estimator, ESTIMATORS)
    check_chunk(function, chunk_size)
    unbiased = estimator == "unbiased"
    p, q = sample_matrices(function, min_rows=2 if unbiased else 1, p_samples=p_samples, q_samples=q_samples)
    return gram_means(default_kernel(function, kernel, p, q), p, q, unbiased=unbiased, chunk_size=chunk_size)


def squared_mmd(
    *,
    p_samples: Any,
    q_samples: Any,
    kernel: Kernel | None = None,
    estimator: str = "unbiased",
    chunk_size: int = CHUNK_SIZE,
) -> jax.Array:
    r"""The squared maximum mean discrepancy E k(x, x') + E k(y, y') - 2 E k(x, y), x ~ p, y ~ q.

    "unbiased" leaves out the pairs of a point with itself and may be negative; "biased" keeps them: it is the squared
    distance of the two mean embeddings, at least 0 up to rounding, and too large by about (1/n + 1/m) E[k(x,x) -
    k(x,x')]. Rounding: kernel values are summed less their typical value, so that the error is about 1e-7 of the
    kernel's spread, not of its size.

    Args:
        p_samples: [n, d] floating; n, m >= 2 if unbiased.
        q_samples: [m, d] floating.
        kernel: a `Kernel`, of several bandwidths if it was made so; None for the Gaussian kernel at the
            `median_bandwidth` of the samples.
        estimator: "unbiased" or "biased".
        chunk_size: rows of pair matrices that exist at once: memory is O(chunk_size (n + m)), for gradients as well.

    Returns:
        A scalar, float32 (float64 where an input is). Differentiable in samples and bandwidths; the default bandwidth
        and the centre of the data count as constants.

    Raises:
        ValueError: wrong shapes, dtypes, kernel, estimator or chunk size.

    Source: Gretton et al., "A kernel two-sample test", JMLR 13 (2012), equations 3 and 5.

    >>> from jaxdiv.divergences.two_sample.kernels import linear_kernel
    >>> p, q = jnp.array([[0.0], [2.0]]), jnp.array([[3.0], [5.0]])
    >>> float(squared_mmd(p_samples=p, q_samples=q, kernel=linear_kernel(), estimator="biased"))  # (1 - 4)^2
    9.0
    """
    return combine_mmd(_means("squared_mmd", p_samples, q_samples, kernel, estimator, chunk_size))


def energy_distance(
    *,
    p_samples: Any,
    q_samples: Any,
    exponent: float = 1.0,
    estimator: str = "biased",
    chunk_size: int = CHUNK_SIZE,
) -> jax.Array:
    r"""The energy distance 2 E|x - y|^e - E|x - x'|^e - E|y - y'|^e, x ~ p, y ~ q: 0 only for p = q.

    In one dimension and for e = 1 it is 2 \int (F_p - F_q)^2; scipy's `energy_distance` is its square root. "biased"
    is the distance of the empirical distributions, at least 0 up to rounding; "unbiased" may be negative. It is the
    squared MMD of `distance_kernel`, whose distances are direct differences.

    Args:
        p_samples: [n, d] floating; n, m >= 2 if unbiased.
        q_samples: [m, d] floating.
        exponent: e in (0, 2).
        estimator: "biased" or "unbiased".
        chunk_size: rows of pair matrices that exist at once: memory is O(chunk_size (n + m)).

    Returns:
        A scalar, float32 (float64 where an input is). Differentiable in the samples; pairs that coincide contribute 0.

    Raises:
        ValueError: wrong shapes, dtypes, exponent, estimator or chunk size.

    Source: Szekely and Rizzo, "Energy statistics: a class of statistics based on distances", JSPI 143 (2013),
    equations 2.5 and 5.1.

    >>> float(energy_distance(p_samples=jnp.array([[0.0]]), q_samples=jnp.array([[3.0], [5.0]])))  # 2 * 4 - 0 - 1
    7.0
    """
    check_real("energy_distance", "exponent", exponent, 0.0, 2.0, open_low=True, open_high=True)
    kernel = distance_kernel(exponent)
    return combine_mmd(_means("energy_distance", p_samples, q_samples, kernel, estimator, chunk_size))


def kernel_cauchy_schwarz(
    *,
    p_samples: Any,
    q_samples: Any,
    kernel: Kernel | None = None,
    estimator: str = "biased",
    chunk_size: int = CHUNK_SIZE,
) -> jax.Array:
    r"""The Cauchy-Schwarz divergence of mean embeddings, log E k(x, x') + log E k(y, y') - 2 log E k(x, y).

    It is -log cos^2 of the angle between the embeddings. With the Gaussian kernel of bandwidth h it is
    -log((\int p q)^2 / (\int p^2 \int q^2)) of the two kernel density estimates of bandwidth h / sqrt 2. "biased" is
    at least 0 up to rounding; "unbiased" leaves out the pairs of a point with itself, which dominate in many
    dimensions. inf, with gradient 0, where no kernel value between the samples is above 0 in float32.

    Args:
        p_samples: [n, d] floating; n, m >= 2 if unbiased.
        q_samples: [m, d] floating.
        kernel: a `Kernel` with positive values (Gaussian, Laplace, rational quadratic); None for the Gaussian kernel at
            the `median_bandwidth` of the samples.
        estimator: "biased" or "unbiased".
        chunk_size: rows of pair matrices that exist at once: memory is O(chunk_size (n + m)).

    Returns:
        A scalar, float32 (float64 where an input is). Differentiable as `squared_mmd` is.

    Raises:
        ValueError: wrong shapes, dtypes, kernel (a distance or polynomial), estimator or chunk size.

    Source: Jenssen et al., "The Cauchy-Schwarz divergence and Parzen windowing", J. Franklin Inst. 343 (2006), eq. 8.

    >>> from jaxdiv.divergences.two_sample.kernels import gaussian_kernel
    >>> p, q = jnp.array([[0.0]]), jnp.array([[1.0]])
    >>> round(float(kernel_cauchy_schwarz(p_samples=p, q_samples=q, kernel=gaussian_kernel(1.0))), 6)  # 2 * 1/2
    1.0
    """
    check_positive_kernel("kernel_cauchy_schwarz", kernel)
    means = _means("kernel_cauchy_schwarz", p_samples, q_samples, kernel, estimator, chunk_size)
    return combine_cauchy_schwarz(means)


def check_positive_kernel(function: str, kernel: Any) -> None:
    """The kernel, if given, has positive values, so that its means have logarithms.

    >>> check_positive_kernel("f", None)
    """
    if isinstance(kernel, Kernel) and kernel.kind in ("distance", "polynomial"):
        raise fail(function, "kernel", f"is of kind {kernel.kind!r}", "one with positive values")
