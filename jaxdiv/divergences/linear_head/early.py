"""Row sums of the powers that need no normalised probability, so that the first look at the logits already gives them.

A gradient slope_j - q_j S of the power a needs S = sum of slope before it can be written. With I = sum p^a q^(1-a) that
is (1 - I) / a, for KL 0 and for reverse KL KL(q || p): sums of exponentials of logits, to be normalised afterwards.
They carry the rounding of a log-sum-exp, as every log-probability does; values do not come from here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxdiv.divergences.linear_head.rows import Objective
from jaxdiv.divergences.linear_head.terms import divergence_family

# Of a sum of exponentials that has no term: exp of it is 0 and, unlike -inf, differences of it are no NaN.
ABSENT = -1e30


class EarlySums(NamedTuple):
    """Per token: the sums of slope of the divergence and its reversal."""

    slope_q: jax.Array
    slope_p: jax.Array


def early_power(objective: Objective) -> float | None:
    """The power a whose sums can be had early, or None."""
    family, a, _ = divergence_family(objective.divergence)
    return a if family == "power" else None


def partial_lse(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Maximum and sum of exp(logits - maximum) over the last axis; all of them may be -inf."""
    top = jnp.maximum(jnp.max(logits, axis=-1), ABSENT)
    # Not top[..., None], which a Mosaic kernel cannot have.
    shift = lax.broadcast_in_dim(top, logits.shape, tuple(range(top.ndim)))
    return top, jnp.sum(jnp.exp(logits - shift), axis=-1)


def total_lse(tops: jax.Array, sums: jax.Array) -> jax.Array:
    """The log-sum-exp over the last axis of segments."""
    top = tops.max(-1)
    return top + jnp.log(jnp.sum(sums * jnp.exp(tops - top[..., None]), -1))


def num_early_parts(objective: Objective) -> int:
    """Numbers per segment: none where S is known, a sum weighted by one side, or a log-sum-exp of both.

    Renyi's divergence needs the latter for its value, whether or not the sums come from it.
    """
    if objective.renyi is not None:
        return 2
    a = early_power(objective)
    if a is None or (a == 1.0 and not objective.differentiate_p):
        return 0
    return 1 if a in (0.0, 1.0) else 2


def early_parts(objective: Objective, p: jax.Array, q: jax.Array, top_p, top_q, zeros: bool) -> tuple[jax.Array, ...]:
    """Those numbers, from logits over the temperature and the maxima of `partial_lse`."""
    if num_early_parts(objective) == 0:
        return ()
    a = early_power(objective) if objective.renyi is None else objective.renyi.order
    if a in (0.0, 1.0):
        weight, difference = (jnp.exp(p - top_p), p - q) if a == 1.0 else (jnp.exp(q - top_q), q - p)
        if zeros:
            difference = jnp.where(weight == 0.0, 0.0, difference)
        return (jnp.sum(weight * difference, axis=-1),)
    mixed = a * p + (1.0 - a) * q
    if zeros:
        # No term, or an infinite one, which `fused` finds out from the logits.
        mixed = jnp.where(jnp.minimum(p, q) == -jnp.inf, ABSENT, mixed)
    return partial_lse(mixed)


def early_sums(
    objective: Objective,
    parts: list[jax.Array],
    p_tops: jax.Array,
    q_tops: jax.Array,
    lse_p: jax.Array,
    lse_q: jax.Array,
) -> EarlySums:
    """The sums over segments ``[tokens, segments]`` of what `early_parts` gave."""
    a = early_power(objective)
    factor = divergence_family(objective.divergence)[2]
    zero = jnp.zeros_like(lse_q)
    if not parts:
        return EarlySums(zero, zero)
    if a in (0.0, 1.0):
        tops, lse, other = (p_tops, lse_p, lse_q) if a == 1.0 else (q_tops, lse_q, lse_p)
        mean = jnp.sum(parts[0] * jnp.exp(tops - lse[:, None]), -1) - (lse - other)
        return EarlySums(zero, factor * mean) if a == 1.0 else EarlySums(factor * mean, zero)
    excess = jnp.expm1(total_lse(*parts) - a * lse_p - (1.0 - a) * lse_q)
    return EarlySums(-factor * excess / a, -factor * excess / (1.0 - a))
