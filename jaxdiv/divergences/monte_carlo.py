"""D_f(p || q) and its gradient from the log-ratios of samples: the term f(r) or f(r)/r of a sample is never negative.

A generator may be given any multiple of r - 1, whose mean under q is 0: that is its gauge. Schulman's estimators k1 and
k3 of KL(q || p) from samples of q are the gauges -log r and r - 1 - log r of one generator; his k2 = rho^2 / 2 is none
and estimates something else. D_f(p || q) = D_f^(q || p), f^(r) = r f(1/r), so what holds for samples from q holds for
samples from p with the reversed record and the negated log-ratio, and that is how this module does it.

Sequences: sum_t f(u_t) of per-token ratios u_t has the mean D_f of the sequences only for the KL divergence out of the
distribution that was sampled (`reverse_kl` from q, `kl` from p), by the chain rule. For every other record it is a sum
of token divergences over sampled prefixes, another quantity; the sequence's own estimate needs the summed log-ratio.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import (
    check_axis,
    check_choice,
    check_instance,
    check_same_shape,
    check_shape,
    fail,
    floating_array,
    mask_array,
)
from jaxdiv.divergences.generators import reverse_kl
from jaxdiv.divergences.importance import ImportanceWeights, importance_weights
from jaxdiv.divergences.record import FDivergence
from jaxdiv.numerics import promote
from jaxdiv.typing import Array, ArrayLike


class MonteCarloEstimate(NamedTuple):
    """An estimate per row, with its uncertainty."""

    value: Array
    """The weighted mean of the terms; NaN for a row without samples."""
    stderr: Array
    """Its standard error; inf where fewer than two samples, or an infinite term, leave it unknown."""
    effective_sample_size: Array
    """How many equally weighted samples the row is worth: their number where no log-weights came."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _term(divergence: FDivergence, rho: Array) -> Array:
    """f(r), with the derivative r f'(r) in rho."""
    return divergence.value(rho)


@_term.defjvp
def _term_jvp(divergence, primals, tangents):
    (rho,), (drho,) = primals, tangents
    return _term(divergence, rho), _slope(divergence, rho) * drho


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _slope(divergence: FDivergence, rho: Array) -> Array:
    """R f'(r), with the derivative r f' + r^2 f''."""
    link, half = divergence.link(rho), jnp.exp(rho / 2.0)  # r itself may underflow where r f'(r) does not
    # f' is beyond the range only for r near 0; there f - score cancels no more than log r has digits.
    far = divergence.value(rho) - divergence.score(rho)
    return jnp.where(jnp.isinf(link) & (rho < 0.0), jnp.where(jnp.isnan(far), -jnp.inf, far), half * (half * link))


@_slope.defjvp
def _slope_jvp(divergence, primals, tangents):
    (rho,), (drho,) = primals, tangents
    slope = _slope(divergence, rho)
    return slope, (slope + divergence.weight(rho)) * drho


@jax.custom_jvp
def _with_gradient(value: Array, coefficient: Array, log_prob: Array) -> Array:
    """The value, with the gradient coefficient * d log_prob and no other."""
    return value


@_with_gradient.defjvp
def _with_gradient_jvp(primals, tangents):
    value, coefficient, _ = primals
    return value, coefficient * tangents[2]


def _sample_weights(
    function: str,
    shape: tuple[int, ...],
    dtype: jnp.dtype,
    axis: int,
    where: ArrayLike | None,
    log_weights: ArrayLike | None,
) -> ImportanceWeights:
    """Normalised weights without a gradient: equal ones where no log-weights came. The axis ends up last."""
    mask = None if where is None else jnp.moveaxis(mask_array(function, "where", where, shape), axis, -1)
    logs = jnp.zeros(shape, dtype)
    if log_weights is not None:
        logs = floating_array(function, "log_weights", log_weights)
        check_shape(function, "log_weights", logs, shape)
    return importance_weights(jax.lax.stop_gradient(jnp.moveaxis(promote(logs), axis, -1)), where=mask)


def _mean(weights: Array, terms: Array) -> Array:
    return jnp.sum(jnp.where(weights == 0.0, 0.0, weights * terms), axis=-1)


def _fitted(divergence: FDivergence, rho: Array, weights: Array) -> Array:
    """F + c (r - 1) with the c of least variance, in units of the largest r so that no square overflows."""
    terms, finite = divergence.value(rho), jnp.where(jnp.isinf(rho), -jnp.inf, rho)  # infinite terms decide alone
    shift = jnp.maximum(jnp.max(finite, axis=-1, keepdims=True), 0.0)
    control = jnp.exp(finite - shift) - jnp.exp(-shift)
    centered = control - _mean(weights, control)[..., None]
    covariance, variance = _mean(weights, terms * centered), _mean(weights, jnp.square(centered))
    coefficient = -covariance / jnp.where(variance > 0.0, variance, 1.0)
    return terms + jnp.where(jnp.isfinite(coefficient), coefficient, 0.0)[..., None] * control


def _stderr(terms: Array, value: Array, sample: ImportanceWeights) -> Array:
    """sqrt(sum w^2 (t - mean)^2 n / (n - 1)), n the effective size; sample deviation / sqrt n for equal weights."""
    deviation = jnp.where(sample.weights > 0.0, jnp.abs(terms - value[..., None]), 0.0)
    largest = jnp.max(deviation, axis=-1)
    scale = jnp.where((largest > 0.0) & jnp.isfinite(largest), largest, 1.0)  # squares overflow before deviations do
    size = sample.effective_sample_size
    squares = jnp.sum(jnp.square(sample.weights * deviation / scale[..., None]), axis=-1)
    known = jnp.isfinite(value) & (size > 1.0)
    return jnp.where(known, scale * jnp.sqrt(squares * size / jnp.where(known, size - 1.0, 1.0)), jnp.inf)


def monte_carlo_divergence(
    divergence: FDivergence,
    log_ratio: ArrayLike,
    *,
    samples_from: str,
    gauge: str = "nonnegative",
    axis: int = -1,
    where: ArrayLike | None = None,
    log_weights: ArrayLike | None = None,
) -> MonteCarloEstimate:
    r"""Estimate D_f(p || q) with a standard error, from rho = log p - log q at samples of q or of p.

    The terms are f(r) for samples from q, since D_f = E_q[f(r)], and f(r) / r for samples from p, since
    D_f = E_p[f(r) / r]. Both normalised densities must be known, up to the log-ratio. Gauges:

    - "nonnegative": f with f(1) = f'(1) = 0, so no term and no estimate is negative. Schulman's k3 for `reverse_kl`
      from q or `kl` from p.
    - "log_ratio": -rho or rho alone, Schulman's k1, which exists for those two only. Unbiased as the other, and better
      where r is heavy-tailed.
    - "fitted": f + c (r - 1) with c by least squares on the samples themselves, the lowest variance of all for many
      samples, with a bias of order 1/n.

    The result is stopped: this is a measurement. Differentiating it with samples that depend on the parameters gives
    the gradient of another divergence; `monte_carlo_loss` has the right one.

    Args:
        divergence: any record.
        log_ratio: floating ``[..., N, ...]``, log p - log q of each sample; infinite where one of them vanishes.
        samples_from: "q" or "p", the distribution that the samples came from, or that the log-weights lead to.
        gauge: "nonnegative", "log_ratio" or "fitted".
        axis: the axis of the samples.
        where: booleans of the same shape; False leaves a sample out, whatever its log-ratio.
        log_weights: log of importance weights, same shape, unnormalised: samples came from another distribution m, and
            these are log q - log m (log p - log m for samples_from="p"). Weights are self-normalised.

    Returns:
        value, stderr and effective sample size per row (the shape without ``axis``), float32 (float64 for float64). A
        value beyond the range of the dtype is inf.

    Raises:
        ValueError: a wrong type, shape, dtype or choice, or gauge="log_ratio" for another pairing than those two.

    Source: Schulman, "Approximating KL divergence" (2020), which has the gauges of the two KL divergences.

    >>> from jaxdiv.divergences import reverse_kl
    >>> rho = jnp.log(jnp.array([0.5, 2.0]))  # KL(q || p), samples from q
    >>> round(float(monte_carlo_divergence(reverse_kl(), rho, samples_from="q").value), 6)  # (0.5 - 1 + 2 - 1) / 2
    0.25
    >>> round(float(monte_carlo_divergence(reverse_kl(), rho, samples_from="q", gauge="log_ratio").value), 6)
    0.0
    """
    function = "monte_carlo_divergence"
    check_instance(function, "divergence", divergence, FDivergence)
    check_choice(function, "samples_from", samples_from, ("q", "p"))
    check_choice(function, "gauge", gauge, ("nonnegative", "log_ratio", "fitted"))
    rho = promote(floating_array(function, "log_ratio", log_ratio))
    axis = check_axis(function, "axis", axis, rho.shape)
    sample = _sample_weights(function, rho.shape, rho.dtype, axis, where, log_weights)
    if samples_from == "p":
        divergence, rho = divergence.reversed(), -rho
    rho = jnp.where(sample.weights > 0.0, jax.lax.stop_gradient(jnp.moveaxis(rho, axis, -1)), 0.0)
    if gauge == "nonnegative":
        terms = divergence.value(rho)
    elif gauge == "fitted":
        terms = _fitted(divergence, rho, sample.weights)
    elif divergence.score == reverse_kl().score:
        terms = divergence.score(rho)
    else:
        expected = "kl with samples_from='p' or reverse_kl with samples_from='q'"
        raise fail(function, "gauge", "is 'log_ratio', which is no estimate of this divergence", expected)
    value = _mean(sample.weights, terms)
    value = jnp.where(sample.effective_sample_size > 0.0, value, jnp.nan)
    return MonteCarloEstimate(value, _stderr(terms, value, sample), sample.effective_sample_size)


def _less_the_others(coefficient: Array, weights: Array) -> Array:
    """Each coefficient less the mean of the other samples' finite ones, which it is independent of."""
    known = jnp.where(jnp.isfinite(coefficient), weights, 0.0)
    product = known * jnp.where(jnp.isfinite(coefficient), coefficient, 0.0)
    mass = jnp.sum(known, axis=-1, keepdims=True)
    rest = mass - known
    others = rest > 16.0 * jnp.finfo(weights.dtype).eps * mass  # else rounding of one dominating weight
    total = jnp.sum(product, axis=-1, keepdims=True) - product
    return coefficient - jnp.where(others, total / jnp.where(others, rest, 1.0), 0.0)


PAIRINGS = (
    # gradient_of, samples_from, estimator
    ("p", "p", "score_function"),
    ("q", "q", "score_function"),
    ("p", "q", "frozen"),
    ("q", "p", "frozen"),
    ("p", "p", "reparametrized"),
    ("q", "q", "reparametrized"),
)


def monte_carlo_loss(
    divergence: FDivergence,
    *,
    p_log_probs: ArrayLike,
    q_log_probs: ArrayLike,
    gradient_of: str,
    samples_from: str,
    estimator: str,
    baseline: str | None = None,
    axis: int = -1,
    where: ArrayLike | None = None,
    log_weights: ArrayLike | None = None,
) -> Array:
    r"""A surrogate whose value estimates D_f(p || q) and whose gradient estimates the gradient of D_f(p || q).

    What a term's gradient has to be depends on who carries the parameters, who was sampled, and how. With r = p/q at
    the sample, g = f'(r) the record's link and k = f - r f' its score:

    =========== ============ ================ ================================= ==============================
    gradient_of samples_from estimator        gradient of a term                samples
    =========== ============ ================ ================================= ==============================
    p           p            score_function   g d log p                         drawn from p at its parameters
    q           q            score_function   k d log q                         drawn from q at its parameters
    p           q            frozen           r g d log p                       no function of the parameters
    q           p            frozen           (k / r) d log q                   no function of the parameters
    p           p            reparametrized   d [f(r) / r], samples included    x = x(parameters, noise)
    q           q            reparametrized   d [f(r)], samples included        x = x(parameters, noise)
    =========== ============ ================ ================================= ==============================

    Every other pairing raises. The refused ones have a use in print: differentiating k3 of KL(p || q) in samples from p
    as if they were frozen gives (1 - 1/r) d log p, whose mean is the gradient of KL(q || p). With `kl`, the first row
    is rho d log p, the gradient of k2 = rho^2 / 2.

    Args:
        divergence: any record.
        p_log_probs: floating ``[..., N, ...]``, log p of each sample.
        q_log_probs: log q of each sample, same shape. Except for "reparametrized", the log-probabilities of the
            distribution that has no gradient are stopped here, so parameters shared by both do no harm.
        gradient_of: "p" or "q", the distribution that is trained.
        samples_from: "p" or "q", the distribution that was sampled.
        estimator: "score_function", "frozen" or "reparametrized", as in the table.
        baseline: None, or "leave_one_out" for the score function: each coefficient less the mean of the other samples'
            (their finite ones). It changes no expectation, and lowers the variance where the coefficients share an
            offset, as over long sequences; near p = q they are centred already and it only adds noise.
        axis: the axis of the samples.
        where: booleans of the same shape; False leaves a sample out, whatever its log-probabilities.
        log_weights: log of importance weights, same shape, where samples came from a third distribution m, such as an
            older p: log of samples_from's distribution less log m. They are self-normalised and stopped.

    Returns:
        One number per row (the shape without ``axis``), float32 (float64 for float64): the estimate of
        `monte_carlo_divergence` in its default gauge, 0 without gradient for a row without samples. Gradients beyond
        the range are infinite. Second derivatives are those of D_f for "frozen" and "reparametrized" only.

    Raises:
        ValueError: a pairing outside the table, a baseline without score function, or a wrong type, shape, dtype or
            choice.

    Source: Go et al., "Aligning language models with preferences through f-divergence minimization"
    (arXiv:2302.08215), theorem 1 for the first row; Tang and Munos, "On a few pitfalls in KL divergence gradient
    estimation for RL" (arXiv:2506.09477) for what goes wrong. The other rows follow from d p = p d log p.

    >>> from jaxdiv.divergences import kl
    >>> def loss(log_p):
    ...     both = dict(p_log_probs=log_p, q_log_probs=jnp.log(jnp.array([0.25])))
    ...     return monte_carlo_loss(kl(), gradient_of="p", samples_from="p", estimator="score_function", **both)
    >>> round(float(jax.grad(loss)(jnp.log(jnp.array([0.5])))[0]), 6)  # log r
    0.693147
    """
    function = "monte_carlo_loss"
    check_instance(function, "divergence", divergence, FDivergence)
    for name, side in (("gradient_of", gradient_of), ("samples_from", samples_from)):
        check_choice(function, name, side, ("p", "q"))
    check_choice(function, "estimator", estimator, ("score_function", "frozen", "reparametrized"))
    check_choice(function, "baseline", baseline, (None, "leave_one_out"))
    if (gradient_of, samples_from, estimator) not in PAIRINGS:
        got = f"is {estimator!r} with gradient_of={gradient_of!r} and samples_from={samples_from!r}"
        need = "another distribution" if estimator == "frozen" else "the distribution with the gradient"
        raise fail(function, "estimator", got, f"samples from {need}")
    if baseline is not None and estimator != "score_function":
        raise fail(function, "baseline", f"is {baseline!r} with estimator={estimator!r}", "None")
    log_p = floating_array(function, "p_log_probs", p_log_probs)
    log_q = floating_array(function, "q_log_probs", q_log_probs)
    check_same_shape(function, p_log_probs=log_p, q_log_probs=log_q)
    log_p, log_q = promote(log_p), promote(log_q)
    axis = check_axis(function, "axis", axis, log_p.shape)
    weights = _sample_weights(function, log_p.shape, log_p.dtype, axis, where, log_weights).weights
    sampled, other = (log_q, log_p) if samples_from == "q" else (log_p, log_q)
    sampled, other = (jnp.where(weights == 0.0, 0.0, jnp.moveaxis(x, axis, -1)) for x in (sampled, other))
    if samples_from == "p":
        divergence = divergence.reversed()
    if estimator == "reparametrized":
        return _mean(weights, _term(divergence, other - sampled))
    if estimator == "frozen":
        return _mean(weights, _term(divergence, other - jax.lax.stop_gradient(sampled)))
    rho = jax.lax.stop_gradient(other - sampled)
    coefficient = divergence.score(rho)
    if baseline is not None:
        coefficient = _less_the_others(coefficient, weights)
    return _mean(weights, _with_gradient(divergence.value(rho), coefficient, sampled))
