"""Rows of logits to divergences and logit gradients in plain jax.numpy, which XLA fuses and partitions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.divergences.families import Renyi
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


class RowSums(NamedTuple):
    """Sums over the vocabulary, or over a block of it."""

    value: jax.Array
    slope_q: jax.Array
    slope_p: jax.Array | None
    label_logit: jax.Array | None


def log_partition(objective: Objective, p_logits: jax.Array, q_logits: jax.Array) -> RowStatistics:
    """The log-sum-exps over the last axis."""
    scale = 1.0 / objective.temperature
    lse_q = jax.nn.logsumexp(scale * q_logits, axis=-1)
    lse_p = jax.nn.logsumexp(scale * p_logits, axis=-1)
    lse_label = None
    if objective.label_weight:
        lse_label = lse_q if objective.temperature == 1.0 else jax.nn.logsumexp(q_logits, axis=-1)
    return RowStatistics(lse_p, lse_q, lse_label)


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
        value = objective.renyi.from_generator(value)
    if sums.label_logit is None:
        return value
    share = objective.label_weight
    return (1.0 - share) * value + share * (statistics.lse_label - sums.label_logit)


def slope_factor(objective: Objective, value: jax.Array) -> jax.Array:
    """D loss / d D over the temperature, per token."""
    factor = jnp.full_like(value, (1.0 - objective.label_weight) / objective.temperature)
    if objective.renyi is not None:
        a = objective.renyi.order
        factor = factor * a / (1.0 + a * (a - 1.0) * value)
    return factor


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
    """Weights * d loss / d logits of q, and of p if the objective differentiates it, for the columns at hand."""
    log_p = _log_probs(objective, p_logits, statistics.lse_p)
    log_q = _log_probs(objective, q_logits, statistics.lse_q)
    factor = (weights * slope_factor(objective, sums.value))[:, None]
    terms = category_terms(objective.divergence, log_p, log_q)
    grad_q = factor * (terms.slope - terms.q * sums.slope_q[:, None])
    if labels is not None:
        soft = jnp.exp(q_logits - statistics.lse_label[:, None])
        miss = soft - _one_hot(labels, start, q_logits.shape[-1])
        grad_q = grad_q + objective.label_weight * weights[:, None] * miss
    grad_q = jnp.where(weights[:, None] == 0.0, 0.0, grad_q)
    if not objective.differentiate_p:
        return grad_q, None
    dual = category_terms(objective.divergence.reversed(), log_q, log_p)
    grad_p = factor * (dual.slope - dual.q * sums.slope_p[:, None])
    return grad_q, jnp.where(weights[:, None] == 0.0, 0.0, grad_p)
