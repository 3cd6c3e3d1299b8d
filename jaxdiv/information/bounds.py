"""Mutual information from a critic's scores of all pairs of a batch: the estimates that compare joint with product.

Scores are ``[..., B, B]``, the critic at (x_i, y_j) in row i and column j, best at log p(x, y) / (p(x) p(y)). The
diagonal is a sample of the joint distribution, everything else one of the product of the marginals.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_real, check_shape, fail, floating_array
from jaxdiv.divergences import donsker_varadhan_bound, fenchel_bound, jensen_shannon, nwj_bound
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.numerics import promote
from jaxdiv.typing import Array, ArrayLike


def score_matrix(function: str, argument: str, scores: ArrayLike, low: int = 2) -> Array:
    """The argument as floating ``[..., B, B]`` with B >= low, float32 at least.

    >>> score_matrix("f", "scores", jnp.zeros((2, 2), jnp.bfloat16)).dtype.name
    'float32'
    """
    v = promote(floating_array(function, argument, scores))
    if v.ndim < 2 or v.shape[-1] != v.shape[-2] or v.shape[-1] < low:
        raise fail(function, argument, f"has shape {v.shape}", f"shape [..., B, B] with B >= {low}")
    return v


def diagonal(v: Array) -> Array:
    """The scores of the pairs as drawn, ``[..., B]``.

    >>> diagonal(jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [1.0, 4.0]
    """
    return jnp.diagonal(v, axis1=-2, axis2=-1)


def off_diagonal(v: Array) -> Array:
    """The scores of all other pairs, ``[..., B (B - 1)]``, row by row.

    >>> off_diagonal(jnp.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [2.0, 3.0]
    """
    size = v.shape[-1]
    flat = v.reshape(*v.shape[:-2], size * size)[..., 1:]
    # Cut into rows of B + 1 that start behind a diagonal entry, each ends with the next one.
    return flat.reshape(*v.shape[:-2], size - 1, size + 1)[..., :-1].reshape(*v.shape[:-2], size * (size - 1))


def product_terms(c: Array) -> Array:
    """How each pair k enters mean_{i != j} c_ij, to first order: row mean + column mean - mean, ``[..., B]``.

    Their mean is the mean over i != j, their spread its standard error as a U-statistic.

    >>> product_terms(jnp.array([[9.0, 1.0], [3.0, 9.0]])).tolist()
    [2.0, 2.0]
    """
    size = c.shape[-1]
    c = jnp.where(jnp.eye(size, dtype=bool), 0.0, c)
    row, column = jnp.sum(c, axis=-1), jnp.sum(c, axis=-2)
    return (row + column - jnp.mean(row, axis=-1, keepdims=True)) / (size - 1)


def normalized_exponentials(v: Array) -> Array:
    """e^v over its mean off the diagonal, without overflow, ``[..., B, B]``.

    >>> normalized_exponentials(jnp.full((2, 2), 200.0)).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    q = off_diagonal(v)
    log_mean = jax.nn.logsumexp(q, axis=-1) - math.log(q.shape[-1])
    return jnp.exp(v - log_mean[..., None, None])


def donsker_varadhan(scores: ArrayLike) -> Estimate:
    r"""Donsker and Varadhan's estimate, mean_i v_ii - log mean_{i != j} e^{v_ij}.

    In the limit of many pairs a lower bound on the mutual information for every critic, tight at the log-ratio plus
    any constant. From B pairs it is no bound, even in expectation: the logarithm of a mean is biased low, so the
    estimate is biased up, without limit for a critic whose e^v has heavy tails. Hence its kind is "plug-in".

    Args:
        scores: floating ``[..., B, B]``, B >= 2, the critic at (x_i, y_j).

    Returns:
        An `Estimate`, value ``[...]``, float32 (float64 for float64), differentiable; ``stderr`` and ``info["local"]``
        ``[..., B]`` (terms of mean ``value``, by the delta method) carry no gradient.

    Raises:
        ValueError: scores is no floating array of square matrices with B >= 2.

    Source: Donsker and Varadhan, 1983; Belghazi et al., "MINE: mutual information neural estimation"
    (arXiv:1801.04062), equation 5.

    >>> round(float(donsker_varadhan(jnp.log(jnp.array([[2.0, 1.0], [3.0, 8.0]])))), 6)  # log 4 - log 2
    0.693147
    """
    v = score_matrix("donsker_varadhan", "scores", scores)
    value = donsker_varadhan_bound(p_scores=diagonal(v), q_scores=off_diagonal(v))
    spread = diagonal(v) - product_terms(normalized_exponentials(v))
    local = value[..., None] + spread - jnp.mean(spread, axis=-1, keepdims=True)
    return make_estimate(value, kind="plug-in", local=jax.lax.stop_gradient(local))


def smile(scores: ArrayLike, *, clip: float = 5.0) -> Estimate:
    r"""SMILE, mean_i v_ii - log mean_{i != j} e^{clip(v_ij, -c, c)}: less variance than `donsker_varadhan`, no bound.

    Its gradient is of little use: train the critic with `jensen_shannon_bound` and report this. Too small a clip
    leaves out large ratios, which biases up; a large one tends to `donsker_varadhan`.

    Args:
        scores: floating ``[..., B, B]``, B >= 2, the critic at (x_i, y_j).
        clip: c > 0, which may be infinity.

    Returns:
        An `Estimate` of kind "plug-in", as `donsker_varadhan` has it.

    Raises:
        ValueError: scores is no floating array of square matrices with B >= 2, or clip no positive number.

    Source: Song and Ermon, "Understanding the limitations of variational mutual information estimators"
    (arXiv:1910.06222), equation 12.

    >>> round(float(smile(jnp.array([[7.0, 9.0], [9.0, 7.0]]), clip=5.0)), 6)
    2.0
    """
    v = score_matrix("smile", "scores", scores)
    check_real("smile", "clip", clip, 0.0, math.inf, open_low=True)
    clipped = jnp.clip(v, -clip, clip)
    value = donsker_varadhan_bound(p_scores=diagonal(v), q_scores=off_diagonal(clipped))
    spread = diagonal(v) - product_terms(normalized_exponentials(clipped))
    local = value[..., None] + spread - jnp.mean(spread, axis=-1, keepdims=True)
    return make_estimate(value, kind="plug-in", local=jax.lax.stop_gradient(local))


def nwj(scores: ArrayLike) -> Estimate:
    r"""The bound of Nguyen, Wainwright and Jordan, mean_i v_ii - mean_{i != j} e^{v_ij} + 1 (the KL of an f-GAN).

    Unbiased, so a lower bound in expectation for every critic, tight at the log-ratio itself (the papers' critic is
    1 + v). Its variance grows with e^I: at large mutual information a single pair decides.

    Args:
        scores: floating ``[..., B, B]``, B >= 2, the critic at (x_i, y_j).

    Returns:
        An `Estimate`, value ``[...]``, float32 (float64 for float64), differentiable, -inf where e^v overflows;
        ``stderr`` and ``info["local"]`` ``[..., B]`` (terms of mean ``value``) carry no gradient.

    Raises:
        ValueError: scores is no floating array of square matrices with B >= 2.

    Source: Nguyen, Wainwright, Jordan (arXiv:0809.0853); Poole et al., "On variational bounds of mutual information"
    (arXiv:1905.06922), equation 6.

    >>> round(float(nwj(jnp.log(jnp.array([[2.0, 0.5], [0.5, 2.0]])))), 6)  # log 2 - 1/2 + 1
    1.193147
    """
    v = score_matrix("nwj", "scores", scores)
    value = nwj_bound(p_scores=diagonal(v), q_scores=off_diagonal(v))
    local = diagonal(v) - product_terms(jnp.exp(v)) + 1.0
    return make_estimate(value, kind="lower bound", local=jax.lax.stop_gradient(local))


def tuba(scores: ArrayLike, *, log_baseline: ArrayLike) -> Estimate:
    r"""The bound of Barber and Agakov with a tractable normaliser: `nwj` of v_ij - log a(x_i).

    A lower bound in expectation for every critic and every baseline a > 0 that sees x_i alone. At a fixed critic best
    at a(x) = E_y e^{v(x, y)}. Transpose the scores for a baseline of y.

    Args:
        scores: floating ``[..., B, B]``, B >= 2, the critic at (x_i, y_j).
        log_baseline: floating ``[..., B]``, log a(x_i).

    Returns:
        An `Estimate`, as `nwj` has it, differentiable in both arrays.

    Raises:
        ValueError: scores is no floating array of square matrices with B >= 2, or log_baseline does not fit it.

    Source: Poole et al. (arXiv:1905.06922), equation 4.

    >>> scores = jnp.log(jnp.array([[6.0, 3.0], [1.0, 2.0]]))
    >>> round(float(tuba(scores, log_baseline=jnp.log(jnp.array([3.0, 1.0])))), 6)  # log 2 - 1 + 1
    0.693147
    """
    v = score_matrix("tuba", "scores", scores)
    baseline = promote(floating_array("tuba", "log_baseline", log_baseline))
    check_shape("tuba", "log_baseline", baseline, v.shape[:-1])
    return nwj(v - baseline[..., None])


def jensen_shannon_bound(scores: ArrayLike) -> Estimate:
    r"""Twice the Jensen-Shannon bound, 2 log 2 - mean_i softplus(-v_ii) - mean_{i != j} softplus(v_ij).

    Unbiased for a number below 2 JSD(joint, product), which is below the mutual information: the generators of 2 JSD
    and KL have f(1) = f'(1) = 0 and second derivatives 1 / (r (1 + r)) <= 1 / r. It never exceeds 2 log 2. So it says
    little about the size of a large mutual information, but it is logistic regression of the joint against the product:
    its gradient has low variance and its best critic is the log-ratio, for `smile`, `nwj` or `donsker_varadhan`.

    Args:
        scores: floating ``[..., B, B]``, B >= 2, the critic at (x_i, y_j).

    Returns:
        An `Estimate`, value ``[...]``, float32 (float64 for float64), differentiable; ``stderr`` and ``info["local"]``
        ``[..., B]`` (terms of mean ``value``) carry no gradient.

    Raises:
        ValueError: scores is no floating array of square matrices with B >= 2.

    Source: Nowozin, Cseke, Tomioka, "f-GAN" (arXiv:1606.00709), table 2; Hjelm et al., "Learning deep representations
    by mutual information estimation and maximization" (arXiv:1808.06670), equation 4. The comparison is derived here.

    >>> round(float(jensen_shannon_bound(jnp.array([[100.0, -100.0], [-100.0, 100.0]]))), 6)  # 2 log 2
    1.386294
    """
    v = score_matrix("jensen_shannon_bound", "scores", scores)
    value = 2.0 * fenchel_bound(jensen_shannon(), p_scores=diagonal(v), q_scores=off_diagonal(v))
    local = 2.0 * math.log(2.0) - jax.nn.softplus(-diagonal(v)) - product_terms(jax.nn.softplus(v))
    local = jax.lax.stop_gradient(local)
    return make_estimate(value, kind="lower bound", local=local, ceiling=2.0 * math.log(2.0))


class Objective(NamedTuple):
    """What a critic is trained to maximise where that needs memory between batches; see `mine`."""

    init: Callable[[], Any]
    """() -> state."""
    update: Callable[[Any, Array], tuple[Any, Estimate]]
    """(state, scores) -> (new state, estimate): the gradient is that of the estimate's value in the scores."""


class MineState(NamedTuple):
    """The moving average of mean_{i != j} e^v, and the weight it has gathered."""

    log_sum: Array
    weight: Array


def mine(*, decay: float = 0.9) -> Objective:
    r"""MINE: the value of `donsker_varadhan`, with the gradient's denominator averaged over batches.

    The gradient is mean_i dv_ii - mean_{i != j} e^{v_ij} dv_ij / A with A the moving average of mean_{i != j} e^{v_ij},
    this batch included, by weights decay^age normalised to 1. That of `donsker_varadhan` divides by this batch's mean
    alone, which biases it. Report the critic by a bound of your choice: this only trains.

    Args:
        decay: in [0, 1); 0 is the plain gradient of `donsker_varadhan`.

    Returns:
        An `Objective`: ``init() -> MineState``; ``update(state, scores [B, B]) -> (MineState, Estimate)``. The state is
        float32 and carries no gradient. Calls with equal decay return the same object, so that `jax.jit` knows it.

    Raises:
        ValueError: decay is no number in [0, 1), or in ``update`` scores is no floating ``[B, B]``, B >= 2.

    Source: Belghazi et al. (arXiv:1801.04062), section 3.2 and equation 12.

    >>> objective = mine(decay=0.5)
    >>> state, estimate = objective.update(objective.init(), jnp.zeros((2, 2)))
    >>> state, estimate = objective.update(state, jnp.log(jnp.array([[1.0, 4.0], [4.0, 1.0]])))
    >>> round(float(jnp.exp(state.log_sum) / state.weight), 6)  # (1 + 2 * 4) / 3
    3.0
    """
    check_real("mine", "decay", decay, 0.0, 1.0, open_high=True)
    return _mine(float(decay))


def _mine_init() -> MineState:
    return MineState(jnp.float32(-jnp.inf), jnp.float32(0.0))


@functools.cache
def _mine(decay: float) -> Objective:
    def update(state: MineState, scores: ArrayLike) -> tuple[MineState, Estimate]:
        v = score_matrix("mine", "scores", scores)
        check_shape("mine", "scores", v, (None, None))
        estimate = donsker_varadhan(v)
        q = off_diagonal(v)
        log_mean = jax.nn.logsumexp(q) - math.log(q.shape[-1])
        new = jax.lax.stop_gradient(log_mean).astype(jnp.float32) + math.log1p(-decay)
        old = state.log_sum + math.log(decay) if decay else jnp.float32(-jnp.inf)
        state = MineState(jnp.logaddexp(old, new), decay * state.weight + (1.0 - decay))
        log_average = state.log_sum - jnp.log(state.weight)
        surrogate = jnp.mean(diagonal(v)) - jnp.exp(log_mean - log_average)
        value = jax.lax.stop_gradient(estimate.value - surrogate) + surrogate
        return state, make_estimate(value, kind=estimate.kind, local=estimate.info["local"])

    return Objective(_mine_init, update)
