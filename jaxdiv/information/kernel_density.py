"""Pairwise bounds on the information in a noisy representation: a mixture of equal Gaussians at the sample points."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.divergences.two_sample.arguments import CHUNK_SIZE, check_chunk
from jaxdiv.divergences.two_sample.pairs import map_rows, squared_distances
from jaxdiv.information.arguments import check_rows, check_variance, label_array, paired_samples
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.typing import Array


def kolchinsky_tracey_bounds(
    means: Any, *, variance: Any, labels: Any = None, chunk_size: int = CHUNK_SIZE
) -> tuple[Estimate, Estimate]:
    r"""Lower and upper bound on the information in T = means[i] + N(0, variance I), i uniform over the N samples.

    With U_i(S) = -log mean_{j in S} exp(-|m_i - m_j|^2 / (2 variance)) and L_i(S) the same with 8 in place of 2, the
    entropy of T over S lies between the means of L_i and U_i plus that of the noise. So I(i; T), which is I(X; T) for
    the law of the samples, has the bounds mean L_i, mean U_i over all samples; and I(Y; T) with labels Y::

        mean_i [L_i(all) - U_i(class of i)] <= I(Y; T) <= mean_i [U_i(all) - L_i(class of i)]

    The lower bound holds in expectation for the population behind the samples too; the upper one is a bound for the
    samples' law alone and never exceeds log N. Without noise in the network itself, the variance is the analyst's
    choice, and so is the number. O(N^2 d) time, O(N chunk_size) memory; differentiable in means and variance.

    Args:
        means: [N, d] or [N] floating: the representation before its noise.
        variance: a positive number, or an array of shape () or [d], maybe traced.
        labels: [N] integers, or None.
        chunk_size: rows of the pair matrix that exist at once.

    Returns:
        (lower, upper): `Estimate` of kinds "lower bound" and "upper bound", ceiling log N, float32 (float64 where means
        is). Their standard errors treat the N terms as independent, which they are not quite. With labels both carry
        `info["same_bound"]`, the difference of one bound from itself, mean [L_i(all) - L_i(class)] and the same of
        U_i, as the literature plots it: a number between the two, no bound.

    Raises:
        ValueError: wrong shapes or dtypes, one row, a variance that is not positive.

    Source: Kolchinsky and Tracey, "Estimating mixture entropy with pairwise distances", arXiv:1706.02419, section 3;
    Saxe et al., "On the information bottleneck theory of deep learning" (2018), for its use on networks.

    >>> lower, upper = kolchinsky_tracey_bounds(jnp.array([0.0, 2.0]), variance=1.0)  # -log((1 + e^-.5) / 2), e^-2
    >>> round(float(lower), 4), round(float(upper), 4)
    (0.2191, 0.5662)
    """
    function = "kolchinsky_tracey_bounds"
    (means,) = paired_samples(function, means=means)
    count, width = means.shape
    check_rows(function, "means", means, 2)
    check_variance(function, variance, width)
    check_chunk(function, chunk_size)
    scaled = means / jnp.sqrt(jnp.asarray(variance, means.dtype))
    classes = None if labels is None else label_array(function, "labels", labels, count)

    def row_terms(rows, index):
        squared = squared_distances(rows, scaled)
        terms = [_log_mean(squared, fraction, None) for fraction in (8.0, 2.0)]
        if classes is not None:
            same = classes[index][:, None] == classes
            terms += [_log_mean(squared, fraction, same) for fraction in (8.0, 2.0)]
        return jnp.stack(terms, axis=1)

    terms = map_rows(row_terms, scaled, chunk_size=chunk_size)
    low, high = terms[:, 0], terms[:, 1]
    info: tuple[dict[str, Array], dict[str, Array]] = ({}, {})
    if classes is not None:
        info = ({"same_bound": jnp.mean(low - terms[:, 2])}, {"same_bound": jnp.mean(high - terms[:, 3])})
        low, high = low - terms[:, 3], high - terms[:, 2]
    ceiling = np.log(count)
    lower = make_estimate(jnp.mean(low), kind="lower bound", local=low, ceiling=ceiling, **info[0])
    return lower, make_estimate(jnp.mean(high), kind="upper bound", local=high, ceiling=ceiling, **info[1])


def _log_mean(squared: Array, fraction: float, kept: Array | None) -> Array:
    """-log of the mean of exp(-squared / fraction) along rows; no sum is empty, for a point is in its own class."""
    if kept is None:
        return jnp.log(squared.shape[1]) - jax.nn.logsumexp(-squared / fraction, axis=1)
    total = jax.nn.logsumexp(jnp.where(kept, -squared / fraction, -jnp.inf), axis=1)
    return jnp.log(jnp.sum(kept, axis=1).astype(squared.dtype)) - total
