"""Self-normalised importance weights from their logarithms, the effective sample size, and the tail index."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_axis, fail, floating_array, mask_array
from jaxdiv.numerics import promote
from jaxdiv.typing import Array, ArrayLike


class ImportanceWeights(NamedTuple):
    """Weights that sum to 1 along the axis of the samples, and what they say about themselves."""

    weights: Array
    """w_i / sum_j w_j, of the shape of the log-weights; 0 where masked."""
    effective_sample_size: Array
    """1 / sum of squared normalised weights, from 1 to the number of samples; 0 for a row without weight."""
    log_mean_weight: Array
    """log of the mean unnormalised weight, the estimate of log Z where w estimates p Z / q; -inf without weight."""


def importance_weights(log_weights: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None) -> ImportanceWeights:
    r"""Self-normalised importance weights w_i / sum w from log w = log p - log q at samples of q.

    p need be known up to a factor only. With them sum_i w_i h(x_i) estimates E_p[h], with a bias of order 1/n. The
    effective sample size of Kish, (sum w)^2 / sum w^2, is the number of samples from p whose mean would vary as
    much, for an h that does not follow the weights. All is computed relative to the largest weight, so nothing
    overflows; infinite weights share equally.

    Args:
        log_weights: floating ``[..., N, ...]``, -inf for a weight of 0; they need no normalisation.
        axis: the axis of the samples.
        where: booleans of the same shape; False leaves a sample out.

    Returns:
        The weights of the input's shape, and two numbers per row (the shape without ``axis``), float32 (float64 for
        float64). Differentiable in the log-weights.

    Raises:
        ValueError: log_weights is no floating array with an entry along the axis, or where does not have its shape.

    Source: Kong, "A note on importance sampling using standardized weights" (1992); Owen, "Monte Carlo theory, methods
    and examples" (2013), section 9.3.

    >>> result = importance_weights(jnp.log(jnp.array([1.0, 1.0, 2.0])))
    >>> [round(float(w), 6) for w in result.weights], round(float(result.effective_sample_size), 4)  # 16 / 6
    ([0.25, 0.25, 0.5], 2.6667)
    """
    function = "importance_weights"
    log_w = floating_array(function, "log_weights", log_weights)
    axis = check_axis(function, "axis", axis, log_w.shape)
    keep = None if where is None else mask_array(function, "where", where, log_w.shape)
    log_w = promote(log_w)
    if keep is not None:
        log_w = jnp.where(keep, log_w, -jnp.inf)
    count = jnp.full((), log_w.shape[axis], log_w.dtype) if keep is None else jnp.sum(keep, axis, dtype=log_w.dtype)
    top = jax.lax.stop_gradient(jnp.max(log_w, axis, keepdims=True))
    finite = jnp.where(top == jnp.inf, jnp.where(log_w == jnp.inf, 0.0, -jnp.inf), log_w)
    relative = jnp.exp(finite - jnp.where(jnp.isinf(top), 0.0, top))  # the largest is 1, or all are 0
    total = jnp.sum(relative, axis, keepdims=True)
    empty = total == 0.0
    weights = relative / jnp.where(empty, 1.0, total)
    some = ~jnp.squeeze(empty, axis)
    # Of the relative weights, not of the normalised ones: n equal weights are worth n to the last digit.
    size = jnp.square(jnp.sum(relative, axis)) / jnp.where(some, jnp.sum(jnp.square(relative), axis), 1.0)
    log_sum = jnp.log(jnp.where(some, jnp.sum(relative, axis), 1.0)) + jnp.squeeze(top, axis)
    return ImportanceWeights(weights, size, jnp.where(some, log_sum - jnp.log(jnp.maximum(count, 1.0)), -jnp.inf))


def pareto_k(log_weights: ArrayLike, *, axis: int = -1) -> Array:
    r"""The shape k of the generalised Pareto distribution fitted to the largest importance weights of each row.

    Weights with tail shape k have moments of order below 1/k. Below about 0.7 a self-normalised estimate and its
    standard error can be trusted at common sample sizes; above 1 the weights have no mean, whatever the effective
    sample size says. The largest min(N / 5, 3 sqrt N) weights are fitted by the profile estimate of Zhang and
    Stephens, with the weak pull towards 1/2 (worth ten weights) that Vehtari et al. add.

    Args:
        log_weights: floating ``[..., N, ...]``, at least 25 along the axis.
        axis: the axis of the samples.

    Returns:
        One number per row (the shape without ``axis``), float32 (float64 for float64): -inf where the largest weights
        are all equal, +inf where a quarter of them vanish beside the largest. No gradient passes.

    Raises:
        ValueError: log_weights is no floating array with at least 25 entries along the axis.

    Source: Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto smoothed importance sampling" (arXiv:1507.02646), section 2;
    Zhang and Stephens, "A new and efficient estimation method for the generalized Pareto distribution" (2009).

    >>> heavy = -jnp.log1p(-(jnp.arange(4000.0) + 0.5) / 4000.0)  # the quantiles of weights with P(w > t) = 1/t: k = 1
    >>> bool(abs(pareto_k(heavy) - 1.0) < 0.1)
    True
    """
    function = "pareto_k"
    log_w = floating_array(function, "log_weights", log_weights)
    axis = check_axis(function, "axis", axis, log_w.shape)
    num_samples = log_w.shape[axis]
    if num_samples < 25:
        raise fail(function, "log_weights", f"has {num_samples} samples along the axis", "at least 25")
    log_w = jnp.sort(jnp.moveaxis(promote(jax.lax.stop_gradient(log_w)), axis, -1), axis=-1)
    num_tail = math.ceil(min(num_samples / 5.0, 3.0 * math.sqrt(num_samples)))
    top = log_w[..., -1:]
    scaled = jnp.exp(log_w - jnp.where(jnp.isinf(top), 0.0, top))
    excess = scaled[..., -num_tail:] - scaled[..., -num_tail - 1, None]
    largest, quartile = excess[..., -1:], excess[..., math.floor(num_tail / 4.0 + 0.5) - 1, None]
    fits, flat = (largest > 0.0) & (quartile > 0.0), largest == 0.0
    excess, largest, quartile = (jnp.where(fits, x, 1.0) for x in (excess, largest, quartile))
    num_points = 30 + math.isqrt(num_tail)
    points = 1.0 - jnp.sqrt(num_points / (jnp.arange(1, num_points + 1, dtype=log_w.dtype) - 0.5))
    slopes = points / (3.0 * quartile) + 1.0 / largest  # of the profile likelihood, [..., points]
    shapes = jnp.mean(jnp.log1p(-slopes[..., None, :] * excess[..., None]), axis=-2)
    likelihood = num_tail * (jnp.log(-slopes / shapes) - shapes - 1.0)
    slope = jnp.sum(jax.nn.softmax(likelihood, axis=-1) * slopes, axis=-1, keepdims=True)
    shape = jnp.mean(jnp.log1p(-slope * excess), axis=-1)
    shape = (num_tail * shape + 10.0 * 0.5) / (num_tail + 10.0)
    shape = jnp.where(fits[..., 0], shape, jnp.where(flat[..., 0], -jnp.inf, jnp.inf))
    return jnp.where(jnp.isnan(top[..., 0]), jnp.nan, shape)
