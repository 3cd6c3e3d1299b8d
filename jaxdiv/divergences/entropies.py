"""Entropy, perplexity and cross-entropy of distributions given by logits, with the rules of `categorical`."""

import jax
import jax.numpy as jnp

from jaxdiv.divergences import logits as core
from jaxdiv.divergences.categorical import check_temperature, logit_rows
from jaxdiv.divergences.generators import kl
from jaxdiv.typing import Array, ArrayLike


def entropy(logits: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None) -> Array:
    r"""The Shannon entropy -sum p log p of p = softmax(logits), in nats.

    Accurate relatively also where one class has nearly all the mass. Differentiable, twice; a class at -inf adds 0 and
    has gradient 0, a row without any class has entropy 0.

    Args:
        logits: unnormalised log-probabilities, floating.
        axis: the axis of the classes.
        where: which classes take part, booleans that broadcast to the logits' shape.

    Returns:
        At least 0 and at most log of the number of classes, logits' shape without `axis`, float32 or float64; NaN
        where a logit is NaN or +inf.

    Raises:
        ValueError: logits of no floating dtype, a bad axis or mask.

    >>> round(float(entropy(jnp.zeros(8))), 6)  # log 8
    2.079442
    """
    return _entropy(*logit_rows("entropy", axis, where, logits=logits))


def _log_weights(rows: Array) -> tuple[Array, Array]:
    """Probabilities, and logits less the largest one, 0 where p is 0."""
    top = jax.lax.stop_gradient(jnp.max(rows, axis=-1, keepdims=True))
    shifted = rows - jnp.where(top == -jnp.inf, 0.0, top)
    absent = shifted == -jnp.inf
    shifted = jnp.where(absent, 0.0, shifted)
    weights = jnp.where(absent, 0.0, jnp.exp(shifted))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    return weights / jnp.where(total == 0.0, 1.0, total), shifted


@jax.custom_jvp
def _entropy(rows: Array) -> Array:
    # log sum e^d - sum p d, d <= 0: no term is negative, and log1p keeps the first where one class has all the mass.
    p, shifted = _log_weights(rows)
    top = jnp.argmax(p, axis=-1, keepdims=True)
    rest = jnp.where(jax.lax.broadcasted_iota(top.dtype, p.shape, p.ndim - 1) == top, 0.0, p)
    top_mass = jnp.max(p, axis=-1)
    odds = jnp.sum(rest, axis=-1) / jnp.where(top_mass == 0.0, 1.0, top_mass)
    return jnp.log1p(odds) - jnp.sum(p * shifted, axis=-1)


@_entropy.defjvp
def _entropy_jvp(primals, tangents):
    (rows,), (change,) = primals, tangents
    p, shifted = _log_weights(rows)
    mean = jnp.sum(p * shifted, axis=-1, keepdims=True)
    return _entropy(rows), -jnp.sum(p * (shifted - mean) * change, axis=-1)


def perplexity(logits: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None) -> Array:
    r"""The perplexity e^H of softmax(logits): the number of equally likely classes with the same entropy.

    The perplexity of a model q on data p is ``jnp.exp(cross_entropy(p_logits=..., q_logits=...))``, reduced before the
    exponential.

    Args:
        logits: unnormalised log-probabilities, floating.
        axis: the axis of the classes.
        where: which classes take part.

    Returns:
        In [1, number of classes], logits' shape without `axis`, float32 or float64.

    Raises:
        ValueError: as `entropy`.

    >>> round(float(perplexity(jnp.zeros(8))), 4)
    8.0
    """
    return jnp.exp(_entropy(*logit_rows("perplexity", axis, where, logits=logits)))


def cross_entropy(
    *,
    p_logits: ArrayLike,
    q_logits: ArrayLike,
    axis: int = -1,
    where: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:
    r"""The cross-entropy -sum p log q of soft targets p under q: H(p) + KL(p || q), computed as that sum.

    Both terms are non-negative, and the gradient for q's logits is q - p to rounding error of q - p itself.

    Args:
        p_logits: unnormalised log-probabilities of the targets, floating.
        q_logits: the same of the model, of p_logits' shape.
        axis: the axis of the classes.
        where: which classes take part.
        temperature: divides both logits.

    Returns:
        Nats, p_logits' shape without `axis`; +inf where p has mass that q lacks, with gradients 0 of the KL term.

    Raises:
        ValueError: as `f_divergence`.

    >>> p, q = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75]))
    >>> round(float(cross_entropy(p_logits=p, q_logits=q)), 6)  # (log 4 + log(4/3)) / 2
    0.836988
    """
    function = "cross_entropy"
    temperature = check_temperature(function, temperature)
    p_rows, q_rows = logit_rows(function, axis, where, p_logits=p_logits, q_logits=q_logits)
    return _entropy(p_rows / temperature) + core.value(kl(), temperature, p_rows, q_rows)
