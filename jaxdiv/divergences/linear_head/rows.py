"""Rows of logits to divergences and logit gradients in plain jax.numpy, which XLA fuses and partitions."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.divergences.families import Renyi
from jaxdiv.divergences.linear_head import renyi
from jaxdiv.divergences.linear_head.terms import category_terms
from jaxdiv.divergences.record import FDivergence


class Objective(NamedTuple):
    """What is computed per token: (1 - label_weight) D(p || q) + label_weight * cross-entropy. Hashable, static."""

    divergence: FDivergence
    renyi: Renyi | None = None
    temperature: float = 1.0
    label_weight: float = 0.0
    differentiate_p: bool = False


class RowStatistics(NamedTuple):
    """One number per token: what a second look at the logits needs to write their gradient."""

    lse_p: jax.Array
    lse_q: jax.Array
    lse_label: jax.Array | None
    """log sum exp of the student's logits without the temperature, for the cross-entropy."""
    lse_mixed: jax.Array | None
    """That of `renyi.mixed`, where the divergence is Renyi's."""


class RowSums(NamedTuple):
    """Sums over the vocabulary, or over a block of it."""

    value: jax.Array
    slope_q: jax.Array
    slope_p: jax.Array | None
    label_logit: jax.Array | None


def log_partition(objective: Objective, p_logits: jax.Array, q_logits: jax.Array) -> RowStatistics:
    """The log-sum-exps over the last axis."""
    scale = 1.0 / objective.temperature
    p, q = scale * p_logits, scale * q_logits
    lse_p, lse_q = jax.nn.logsumexp(p, axis=-1), jax.nn.logsumexp(q, axis=-1)
    lse_label = lse_mixed = None
    if objective.renyi is not None:
        lse_mixed = jax.nn.logsumexp(renyi.mixed(objective.renyi, p, q), axis=-1)
    if objective.label_weight:
        lse_label = lse_q if objective.temperature == 1.0 else jax.nn.logsumexp(q_logits, axis=-1)
    return RowStatistics(lse_p, lse_q, lse_label, lse_mixed)


def _log_probs(objective: Objective, logits: jax.Array, lse: jax.Array) -> jax.Array:
    return logits / objective.temperature - lse[:, None]


def row_sums(
    objective: Objective,
    statistics: RowStatistics,
    p_logits: jax.Array,
    q_logits: jax.Array,
    labels: jax.Array | None,
    start: jax.Array | int = 0,
) -> RowSums:
    """The sums over the columns at hand, whose first one has the vocabulary index ``start``."""
    log_p = _log_probs(objective, p_logits, statistics.lse_p)
    log_q = _log_probs(objective, q_logits, statistics.lse_q)
    terms = category_terms(objective.divergence, log_p, log_q)
    slope_p = label_logit = None
    if objective.differentiate_p:
        slope_p = category_terms(objective.divergence.reversed(), log_q, log_p).slope.sum(-1)
    if labels is not None:
        hit = _one_hot(labels, start, q_logits.shape[-1])
        label_logit = jnp.where(hit, q_logits, 0.0).sum(-1)
    return RowSums(terms.value.sum(-1), terms.slope.sum(-1), slope_p, label_logit)


def _one_hot(labels: jax.Array, start: jax.Array | int, width: int) -> jax.Array:
    return labels[:, None] == start + jnp.arange(width)


def losses(objective: Objective, statistics: RowStatistics, sums: RowSums) -> jax.Array:
    """The loss of each token from its sums over the whole vocabulary."""
    value = sums.value
    if objective.renyi is not None:
        value = renyi.from_sums(objective.renyi, log_integral(objective, statistics), value)
    if sums.label_logit is None:
        return value
    share = objective.label_weight
    return (1.0 - share) * value + share * (statistics.lse_label - sums.label_logit)


def log_integral(objective: Objective, statistics: RowStatistics) -> jax.Array | None:
    """Renyi's log of I per token; None for a record."""
    if objective.renyi is None:
        return None
    return renyi.log_integral(objective.renyi, statistics.lse_mixed, statistics.lse_p, statistics.lse_q)


def slope_factor(objective: Objective, level: jax.Array | None) -> jax.Array | float:
    """What multiplies the generator's gradient, per token, with Renyi's log of I."""
    factor = (1.0 - objective.label_weight) / objective.temperature
    return factor if objective.renyi is None else factor * renyi.generator_factor(objective.renyi, level)


def is_infinite(level: jax.Array | None, *sums: jax.Array | None) -> jax.Array:
    """Tokens whose divergence, or the size of its gradient, is beyond every float: they add nothing to the gradients.

    With Renyi's log of I it alone says so: the sums of its generator may overflow where Renyi's value does not.
    """
    found = [jnp.isinf(x) for x in (sums if level is None else (level,)) if x is not None]
    return functools.reduce(jnp.logical_or, found)


def logit_gradients(
    objective: Objective,
    statistics: RowStatistics,
    sums: RowSums,
    p_logits: jax.Array,
    q_logits: jax.Array,
    weights: jax.Array,
    labels: jax.Array | None,
    start: jax.Array | int = 0,
) -> tuple[jax.Array, jax.Array | None]:
    """Weights * d loss / d logits of q, and of p if the objective differentiates it, for the columns at hand.

    0 for tokens of weight 0 and for those whose divergence is infinite, whose cross-entropy is left out, too.
    """
    log_p = _log_probs(objective, p_logits, statistics.lse_p)
    log_q = _log_probs(objective, q_logits, statistics.lse_q)
    level = log_integral(objective, statistics)
    idle = ((weights == 0.0) | is_infinite(level, sums.value, sums.slope_q, sums.slope_p))[:, None]
    factor = (weights * slope_factor(objective, level))[:, None]
    terms = category_terms(objective.divergence, log_p, log_q)
    grad_q = terms.slope - terms.q * sums.slope_q[:, None]
    far = far_q = far_p = None
    if objective.renyi is not None:
        far = renyi.is_far(level)[:, None]
        far_q, far_p = renyi.far_gradients(objective.renyi, level[:, None], log_p, log_q)
        grad_q = jnp.where(far, far_q, grad_q)
    grad_q = factor * grad_q
    if labels is not None:
        soft = jnp.exp(q_logits - statistics.lse_label[:, None])
        miss = soft - _one_hot(labels, start, q_logits.shape[-1])
        grad_q = grad_q + objective.label_weight * weights[:, None] * miss
    grad_q = jnp.where(idle, 0.0, grad_q)
    if not objective.differentiate_p:
        return grad_q, None
    dual = category_terms(objective.divergence.reversed(), log_q, log_p)
    grad_p = dual.slope - dual.q * sums.slope_p[:, None]
    if objective.renyi is not None:
        grad_p = jnp.where(far, far_p, grad_p)
    return grad_q, jnp.where(idle, 0.0, factor * grad_p)
