"""Renyi's divergence at the head, finite however far apart p and q are: from the log of I = sum p^a q^(1-a).

Near p = q, where I is close to 1, the value comes from the f-divergence alpha(a), whose relative error is small there;
far from it, where that sum overflows or cancels, from log I, a log-sum-exp of a log p + (1 - a) log q. The gradients
q - w and a / (a - 1) (w - p), w = p^a q^(1-a) / I, are taken likewise. `families.renyi_divergence` does the same.
"""

import math

import jax
import jax.numpy as jnp

from jaxdiv.divergences.families import Renyi

_FAR = math.log(2.0)  # log I beyond which the logarithm has digits enough


def mixed(renyi: Renyi, p: jax.Array, q: jax.Array) -> jax.Array:
    """A p + (1 - a) q of logits: the logarithms of the terms of I but for both normalisations; -inf where p is 0.

    >>> mixed(Renyi(2.0), jnp.array([1.0, -jnp.inf]), jnp.array([3.0, -jnp.inf])).tolist()
    [-1.0, -inf]
    """
    return jnp.where(p == -jnp.inf, -jnp.inf, renyi.order * p + (1.0 - renyi.order) * q)


def log_integral(renyi: Renyi, lse_mixed: jax.Array, lse_p: jax.Array, lse_q: jax.Array) -> jax.Array:
    """The log of I per token, from the log-sum-exps of `mixed` and of both logits."""
    return lse_mixed - renyi.order * lse_p - (1.0 - renyi.order) * lse_q


def is_far(level: jax.Array) -> jax.Array:
    """Whether a token with this log of I takes the far form; NaN does not, and stays NaN.

    >>> is_far(jnp.array([0.1, -3.0, jnp.inf])).tolist()
    [False, True, True]
    """
    return jnp.abs(level) > _FAR


def from_sums(renyi: Renyi, level: jax.Array, value: jax.Array) -> jax.Array:
    """The divergence from the log of I and the value of the generator."""
    far = is_far(level)
    near = renyi.from_generator(jnp.where(far, 0.0, value))
    return jnp.where(far, level / (renyi.order - 1.0), near)


def generator_factor(renyi: Renyi, level: jax.Array) -> jax.Array:
    """What multiplies the generator's gradient, a / I, where it is taken; 1 where the far form is."""
    far = is_far(level)
    return jnp.where(far, 1.0, renyi.order * jnp.exp(-jnp.where(far, 0.0, level)))


def far_gradients(
    renyi: Renyi, level: jax.Array, log_p: jax.Array, log_q: jax.Array
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """The gradients for the logits of q and of p from normalised log-probabilities."""
    a = renyi.order
    w = jnp.exp(mixed(renyi, log_p, log_q) - level)
    return jnp.exp(log_q) - w, a / (a - 1.0) * (w - jnp.exp(log_p))
