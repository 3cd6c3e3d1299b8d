"""Bounds that compare each pair with the other pairs of its row: InfoNCE, its interpolation with `nwj`, and FLO.

Scores are ``[..., B, B]`` as in `jaxdiv.information.bounds`; row i contrasts y_i with the other y_j. Transpose them to
contrast over x.
"""

import math

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_real, check_shape, floating_array
from jaxdiv.divergences import info_nce_bound
from jaxdiv.information.bounds import diagonal, product_terms, score_matrix, tuba
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.numerics import promote
from jaxdiv.typing import Array, ArrayLike


def info_nce(scores: ArrayLike) -> Estimate:
    r"""InfoNCE, mean_i [v_ii - log mean_j e^{v_ij}], j = i included: a lower bound in expectation for every critic.

    At most log B whatever the data, which is its ceiling: a value within a few tenths of it says that the mutual
    information is larger, not how large. Low variance. Best at the log-ratio plus any function of x.

    Args:
        scores: floating ``[..., B, B]``, B >= 2, the critic at (x_i, y_j).

    Returns:
        An `Estimate`, value ``[...]``, float32 (float64 for float64), differentiable; ``stderr`` and ``info["local"]``
        ``[..., B]`` (terms of mean ``value``, which count both a pair's own row and its part in the others) carry no
        gradient.

    Raises:
        ValueError: scores is no floating array of square matrices with B >= 2.

    Source: van den Oord, Li, Vinyals, "Representation learning with contrastive predictive coding" (arXiv:1807.03748),
    section 2.3; Poole et al., "On variational bounds of mutual information" (arXiv:1905.06922), equation 10.

    >>> estimate = info_nce(100.0 * jnp.eye(4))
    >>> round(float(estimate), 6), round(float(estimate.ceiling), 6)  # log 4
    (1.386294, 1.386294)
    """
    v = score_matrix("info_nce", "scores", scores)
    log_ratio = v - jax.nn.logsumexp(v, axis=-1, keepdims=True) + math.log(v.shape[-1])
    local = diagonal(log_ratio) - jnp.mean(jnp.exp(log_ratio), axis=-2) + 1.0
    local = jax.lax.stop_gradient(local)
    return make_estimate(info_nce_bound(v), kind="lower bound", local=local, ceiling=math.log(v.shape[-1]))


def _log_means_without_one(v: Array) -> Array:
    """Log of the mean of e^v over a row without entry k, ``[..., B, B]`` with k last, without cancellation."""
    size = v.shape[-1]
    is_largest = jnp.arange(size) == jnp.argmax(v, axis=-1)[..., None]
    # What is not the largest is at most half of the sum, so the subtraction is safe; the largest is left out as such.
    share = jnp.where(is_largest, 0.0, jnp.exp(v - jax.nn.logsumexp(v, axis=-1, keepdims=True)))
    without = jax.nn.logsumexp(v, axis=-1, keepdims=True) + jnp.log1p(-share)
    rest = jax.nn.logsumexp(jnp.where(is_largest, -jnp.inf, v), axis=-1, keepdims=True)
    return jnp.where(is_largest, rest, without) - math.log(size - 1)


def interpolated_info_nce(scores: ArrayLike, *, alpha: float, log_baseline: ArrayLike | None = None) -> Estimate:
    r"""Between `tuba` (alpha = 0) and `info_nce` (alpha = 1): bias, set by the ceiling, against variance.

    `nwj` of w(x, y) = v(x, y) - log(alpha m + (1 - alpha) a(x)), where m is the mean of e^v over K = B - 1 partners of
    x, y among them. In the joint term these are y_i and B - 2 others, averaged over which one is left out; in the
    product term all but y_i. Both expectations are exact, so the bound is one for every B, critic and baseline.

    Args:
        scores: floating ``[..., B, B]``, B >= 3, the critic at (x_i, y_j).
        alpha: in [0, 1]; at 1 the mean of `info_nce` over B - 1 columns.
        log_baseline: floating ``[..., B]``, log a(x_i); None for 0, which suits a critic that is a log-ratio.

    Returns:
        An `Estimate`, value ``[...]``, float32 (float64 for float64), differentiable in both arrays, of ceiling
        1 + log((B - 1) / alpha), and log(B - 1) at alpha = 1. ``stderr`` comes from the terms of the rows,
        ``info["local"]`` ``[..., B]``, as if these were independent; neither carries a gradient.

    Raises:
        ValueError: no floating square matrices with B >= 3, alpha outside [0, 1], a baseline of another shape.

    Source: Poole et al. (arXiv:1905.06922), equation 11 and section 2.5; which partners are averaged is derived here.

    >>> round(float(interpolated_info_nce(100.0 * jnp.eye(5), alpha=1.0)), 6)  # log 4
    1.386294
    """
    function = "interpolated_info_nce"
    v = score_matrix(function, "scores", scores, low=3)
    size = v.shape[-1]
    check_real(function, "alpha", alpha, 0.0, 1.0)
    baseline = jnp.zeros(v.shape[:-1], v.dtype) if log_baseline is None else log_baseline
    baseline = promote(floating_array(function, "log_baseline", baseline))
    check_shape(function, "log_baseline", baseline, v.shape[:-1])
    if alpha == 0.0:
        return tuba(v, log_baseline=baseline)
    own = jnp.eye(size, dtype=bool)
    total = jax.nn.logsumexp(v, axis=-1, keepdims=True)  # a shift of v and log a together changes nothing
    v, baseline = v - total, baseline - total[..., 0]
    log_means = _log_means_without_one(v)
    if alpha < 1.0:
        mixed = jnp.logaddexp(math.log(alpha) + log_means, math.log1p(-alpha) + baseline[..., None])
        ceiling = 1.0 + math.log((size - 1) / alpha)
    else:
        mixed, ceiling = log_means, math.log(size - 1)
    joint = diagonal(v) - jnp.sum(jnp.where(own, 0.0, mixed), axis=-1) / (size - 1)
    product = jnp.exp(diagonal(log_means) - diagonal(mixed))
    local = joint - product + 1.0
    return make_estimate(
        jnp.mean(local, axis=-1), kind="lower bound", local=jax.lax.stop_gradient(local), ceiling=ceiling
    )


def flo(scores: ArrayLike, *, log_partition: ArrayLike) -> Estimate:
    r"""The Fenchel-Legendre bound, 1 - mean_i [u_i + e^{-u_i - v_ii} mean_{j != i} e^{v_ij}].

    The mean over the others enters linearly, so the value is unbiased for a lower bound whatever v and u = u(x, y) are,
    and large batches are not needed. At a fixed v best at u = log E_y' e^{v(x, y')} - v(x, y); there it is tight when v
    is the log-ratio plus any function of x.

    Args:
        scores: floating ``[..., B, B]``, B >= 2, the critic v at (x_i, y_j).
        log_partition: floating ``[..., B]``, a second critic u at (x_i, y_i).

    Returns:
        An `Estimate`, value ``[...]``, float32 (float64 for float64), differentiable in both arrays; ``stderr`` and
        ``info["local"]`` ``[..., B]`` (terms of mean ``value``) carry no gradient.

    Raises:
        ValueError: scores is no floating array of square matrices with B >= 2, or log_partition does not fit it.

    Source: Guo et al., "Tight mutual information estimation with contrastive Fenchel-Legendre optimization"
    (arXiv:2107.01131), section 3.

    >>> scores = jnp.log(jnp.array([[4.0, 2.0], [2.0, 4.0]]))
    >>> round(float(flo(scores, log_partition=jnp.log(jnp.array([0.5, 0.5])))), 6)  # 1 + log 2 - 1
    0.693147
    """
    v = score_matrix("flo", "scores", scores)
    u = promote(floating_array("flo", "log_partition", log_partition))
    check_shape("flo", "log_partition", u, v.shape[:-1])
    size = v.shape[-1]
    ratios = jnp.where(jnp.eye(size, dtype=bool), 0.0, jnp.exp(v - (u + diagonal(v))[..., None]))
    value = 1.0 - jnp.mean(u + jnp.sum(ratios, axis=-1) / (size - 1), axis=-1)
    local = jax.lax.stop_gradient(1.0 - u - product_terms(ratios))
    return make_estimate(value, kind="lower bound", local=local)
