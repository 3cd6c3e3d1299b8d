"""Two categorical distributions by their logarithms and their log-ratio, all relatively accurate, for `families`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.numerics import log1p
from jaxdiv.typing import Array


class Rows(NamedTuple):
    """Over the last axis; -inf and 0 where a class is absent, `rho` is 0 where it is absent on either side."""

    log_p: Array
    log_q: Array
    p: Array
    q: Array
    rho: Array
    only_p: Array
    only_q: Array
    both: Array
    nan: Array  # 0, or NaN for a row that holds NaN or +inf or has classes on one side only: ``[...]``


def total(x: Array) -> Array:
    """The sum over the last axis, which stays."""
    return jnp.sum(x, axis=-1, keepdims=True)


def is_largest(x: Array) -> Array:
    """Which entry is the first of the largest ones."""
    place = jnp.argmax(x, axis=-1, keepdims=True)
    return jax.lax.broadcasted_iota(place.dtype, x.shape, x.ndim - 1) == place


def normalised(logits: Array, scale: float = 1.0) -> tuple[Array, Array, Array]:
    """Log softmax(scale * logits), also where it is close to 0, with the top logit and the log-sum-exp above it."""
    top = total(jnp.where(is_largest(logits) & (logits > -jnp.inf), logits, 0.0))
    shifted = jnp.where(logits == -jnp.inf, -jnp.inf, scale * (logits - top))
    # The largest term is 1, left to log1p: a log-probability of -1e-9 keeps its digits.
    log_sum = jnp.log1p(total(jnp.where(is_largest(logits), 0.0, jnp.exp(shifted))))
    return shifted - log_sum, top, log_sum


def _two_difference(a: Array, b: Array) -> tuple[Array, Array]:
    """A - b as its rounding and the exact error of that (Knuth's TwoSum): an offset of all logits is no news."""
    s = a - b
    v = s - a
    rest = (a - (s - v)) - (b + v)
    return s, jnp.where(jnp.isfinite(rest), rest, 0.0)


def compare(a: Array, b: Array, scale: float = 1.0) -> Rows:
    """P = softmax(scale * a) and q = softmax(scale * b), and log p - log q from a - b where that is small.

    With d = scale * (a - b) up to a constant, log p - log q = d - log(sum q e^d), and the sum is 1 plus differences.
    """
    has_p, has_q = a != -jnp.inf, b != -jnp.inf
    both, only_p, only_q = has_p & has_q, has_p & ~has_q, has_q & ~has_p
    log_p, _, _ = normalised(a, scale)
    log_q, top_b, log_sum_b = normalised(b, scale)
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    delta, rest = _two_difference(jnp.where(both, a, 0.0), jnp.where(both, b, 0.0))
    place = is_largest(jnp.where(both, log_q, -jnp.inf))
    reference, rest_there = (jax.lax.stop_gradient(total(jnp.where(place, x, 0.0))) for x in (delta, rest))
    delta = jnp.where(both, scale * ((delta - reference) + (rest - rest_there)), 0.0)
    # What p has beyond q's support, on q's scale; where it is much, the plain difference is accurate anyway.
    extra = jnp.exp(jnp.minimum(jnp.where(only_p, scale * (a - top_b - reference) - log_sum_b, -jnp.inf), 1.0))
    shift = total(jnp.where(both, q * jnp.expm1(jnp.minimum(delta, 1.0)), jnp.where(only_q, -q, extra)))
    near = (jnp.max(jnp.abs(delta), axis=-1, keepdims=True) <= 1.0) & (jnp.abs(shift) < 0.5)
    close = delta - log1p(jnp.where(near, shift, 0.0))
    rho = jnp.where(near, close, jnp.where(both, log_p, 0.0) - jnp.where(both, log_q, 0.0))
    some_p, some_q = jnp.any(has_p, axis=-1), jnp.any(has_q, axis=-1)
    finite = jnp.all((a < jnp.inf) & (b < jnp.inf), axis=-1)  # False for NaN
    nan = jnp.where(finite & (some_p == some_q), 0.0, jnp.nan).astype(a.dtype)
    return Rows(log_p, log_q, p, q, jnp.where(both, rho, 0.0), only_p, only_q, both, nan)


def logit_gradient(slopes: Array, mass: Array) -> Array:
    """The gradient for logits from that for log-probabilities: slopes - mass * sum(slopes), counted from the top class.

    A multiple of `mass` added to the slopes changes nothing, so the top class gets slope 0: where it holds nearly all
    of the mass, what is left are the differences that count.
    """
    top = is_largest(mass)
    share = total(jnp.where(top, mass, 0.0))
    level = total(jnp.where(top, slopes, 0.0)) / jnp.where(share > 0.0, share, 1.0)
    slopes = jnp.where(top, 0.0, slopes - mass * level)
    return slopes - mass * total(slopes)
