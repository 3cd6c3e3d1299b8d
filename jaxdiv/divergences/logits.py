r"""Value and gradient of an f-divergence between two arrays of logits, to rounding error and for any pattern of -inf.

What float32 loses in the textbook formula, and what is done about it here. With a, b the logits, p = softmax(a):

- **The log-ratio** rho = (a - b) - (lse(a) - lse(b)) is a sum of two floats, every subtraction with its exact error.
  Its shift has to make both distributions sum to 1: the sum of p - q, each term from expm1(rho), says by how much it
  does not, and one Newton step on that leaves an error of the size of p - q instead of 1. Values near p = q need it.
- **Value.** q f(r) = p f^(1/r): q phi(rho) where p <= q, p phi_dual(-rho) elsewhere, so that no cancellation is left.
- **Gradient.** With f' and the score k = f - r f', dD/da_j = p_j (f'_j - sum p f') and dD/db_j = q_j (k_j - sum q k).
  For r > 1, q k = p e^y f^'(e^y) at y = -rho: the slope of phi_dual in y, where neither factor overflows.
- **Gauge.** Adding a constant to k changes nothing. Where q is concentrated on one class the differences to that
  class's k are what counts, so they are formed first; where r is small there, k is counted from f(0) (`score_drop`).
- **Growth.** Where f grows as a power of r, its mass may be finite while the factor overflows: three factors at
  a half and a quarter of the log-ratio make the product. Near the largest float k and r^2 f'' are beyond it while value
  and gradients are not: such rows are computed at 2^-40 of their size.

The two sides are mirror images: what is done for (f, p, q) on q is done for (f^, q, p) on p, by the same function.
Probabilities below the smallest normal number (log-probability under -87 in float32) count as 0 but for the question
whether a value is infinite.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.divergences.record import FDivergence
from jaxdiv.numerics import exp_scaled, scaled_pair


class _Pair(NamedTuple):
    """Two softmaxes over the last axis, and the log-ratio as the sum of two floats; 0 where either is masked."""

    p: jax.Array
    q: jax.Array
    rho: jax.Array
    rest: jax.Array
    only_p: jax.Array
    only_q: jax.Array
    undefined: jax.Array


class _Half(NamedTuple):
    """Terms of the side where r <= 1, times the row's scale. The first three have its mass: r f', r^2 f'' and k."""

    slope: jax.Array
    weight: jax.Array
    score: jax.Array
    k: jax.Array
    k_drop: jax.Array
    h: jax.Array
    """k = f - r f', k - f(0) and h = r^2 f'' as they are; inf where a power of 1/r overflows."""


class Terms(NamedTuple):
    """Value, gradients, and what the second derivative is made of: p, q, p f', q k (in some gauge), q r^2 f''."""

    value: jax.Array
    grad_p: jax.Array
    grad_q: jax.Array
    p: jax.Array
    q: jax.Array
    links: jax.Array
    scores: jax.Array
    weights: jax.Array


def _two_difference(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The difference a - b as its rounding and the exact error of that (Knuth's TwoSum)."""
    s = a - b
    v = s - a
    rest = (a - (s - v)) - (b + v)
    return s, jnp.where(jnp.isfinite(rest), rest, 0.0)


def _total(x: jax.Array) -> jax.Array:
    return jnp.sum(x, axis=-1, keepdims=True)


def _exponentials(logits: jax.Array, finite: jax.Array, cold: float) -> tuple[jax.Array, jax.Array]:
    """The largest logit (0 where there is none) and e^{cold (logit - largest)}."""
    top = jnp.max(logits, axis=-1, keepdims=True)
    top = jnp.where(top == -jnp.inf, 0.0, top)
    shifted, rest = _two_difference(jnp.where(finite, logits, top), top)
    return top, jnp.where(finite, exp_scaled(shifted, cold) * (1.0 + cold * rest), 0.0)


def _pair(a: jax.Array, b: jax.Array, cold: float) -> _Pair:
    has_p, has_q = a != -jnp.inf, b != -jnp.inf
    both = has_p & has_q
    (top_a, exp_a), (top_b, exp_b) = _exponentials(a, has_p, cold), _exponentials(b, has_q, cold)
    sum_a, sum_b = _total(exp_a), _total(exp_b)
    some_a, some_b = sum_a > 0.0, sum_b > 0.0  # an empty side divides by 1
    sum_a, sum_b = jnp.where(some_a, sum_a, 1.0), jnp.where(some_b, sum_b, 1.0)
    p, q = exp_a / sum_a, exp_b / sum_b
    delta, delta_rest = _two_difference(jnp.where(both, a, 0.0), jnp.where(both, b, 0.0))
    identical = jnp.all((delta == 0.0) & (has_p == has_q), axis=-1, keepdims=True)
    # A sum of one row may be rounded unlike the same sum of another; identical rows have ratio 1 exactly.
    ratio = jnp.where(identical, 1.0, sum_a / sum_b)
    shift = jnp.log(ratio)
    shift_rest = ratio * jnp.exp(-shift) - 1.0
    top, top_rest = _two_difference(top_a, top_b)
    rho, error_1 = _two_difference(delta, top)
    rho, rest = scaled_pair(rho, cold)
    rest = rest + cold * (error_1 + (delta_rest - top_rest))
    rho, error_2 = _two_difference(rho, shift)
    rest = rest + (error_2 - shift_rest)
    rho, rest = _renormalised(rho, rest)
    # sum of p - q, which is overlap times the error of rho's shift
    low = rho <= 0.0
    gain = jnp.expm1(jnp.where(low, rho, -rho))
    gain = gain + (1.0 + gain) * jnp.where(low, rest, -rest)
    gain = jnp.where(both, jnp.where(low, q, -p) * gain, p - q)
    overlap = _total(jnp.where(both, jnp.where(low, p, q), 0.0))
    correction = jnp.where(overlap > 0.5, _total(gain) / jnp.maximum(overlap, 0.5), 0.0)
    correction = jnp.where(identical, 0.0, correction)
    rho, error_3 = _two_difference(rho, correction)
    rho, rest = _renormalised(rho, rest + error_3)
    rho, rest = jnp.where(both, rho, 0.0), jnp.where(both, rest, 0.0)
    finite = (top_a < jnp.inf) & (top_b < jnp.inf)  # False for NaN
    undefined = ~finite | (some_a != some_b)
    return _Pair(p, q, rho, rest, has_p & ~has_q, has_q & ~has_p, undefined)


def _renormalised(high: jax.Array, low: jax.Array) -> tuple[jax.Array, jax.Array]:
    total = high + low
    rest = low - (total - high)
    bound = 1e30  # logits near the largest float may overflow in a difference
    return jnp.clip(total, -bound, bound), jnp.where(jnp.abs(total) < bound, rest, 0.0)


@functools.lru_cache(maxsize=512)
def _overflows(fn: Callable[[jax.Array], jax.Array]) -> bool:
    """Whether a function of rho <= 0 grows as a power of 1/r, not just as a logarithm."""
    with jax.ensure_compile_time_eval():
        return not bool(jnp.isfinite(fn(jnp.float32(-1e30))))


def _times(
    mass: jax.Array, fn: Callable[[jax.Array], jax.Array], x: jax.Array, grows: bool, scale: jax.Array | float = 1.0
) -> jax.Array:
    """Mass * fn(x) * scale; where fn is a power of e^{-x} too large to multiply, by A^3 / B^2 of half and quarter."""
    y = fn(x)
    if not grows:
        return mass * y * scale
    direct = jnp.abs(y) < 1e34 if x.dtype == jnp.float32 else jnp.abs(y) < 1e300
    half, quarter = fn(jnp.where(direct, 0.0, x / 2.0)), fn(jnp.where(direct, 0.0, x / 4.0))
    ratio = half / jnp.where(direct, 1.0, quarter)
    far = jnp.where(jnp.isfinite(half), (mass * half) * scale * ratio * ratio, jnp.sign(half) * jnp.inf)
    return jnp.where(mass == 0.0, 0.0, jnp.where(direct, mass * jnp.where(direct, y, 0.0) * scale, far))


def _slope(divergence: FDivergence) -> Callable[[jax.Array], jax.Array]:
    return lambda x: jax.jvp(divergence.phi, (x,), (jnp.ones_like(x),))[1]


def _half(divergence: FDivergence, mass: jax.Array, x: jax.Array, scale: jax.Array) -> _Half:
    """The terms of a record at x <= 0; elements that belong to the other half get x = 0 and are not used."""
    grows = _overflows(divergence.phi)
    drop = divergence.score_drop
    one = jnp.ones_like(mass)
    return _Half(
        slope=_times(mass, _slope(divergence), x, grows, scale),
        weight=_times(mass, divergence.weight, x, grows, scale),
        score=_times(mass, divergence.score, x, grows, scale),
        k=_times(one, divergence.score, x, grows, scale),
        k_drop=jnp.zeros_like(x) if drop is None else scale * drop(x),
        h=_times(one, divergence.weight, x, grows, scale),
    )


def _recentred(
    divergence: FDivergence, mass: jax.Array, near: _Half, far: _Half, is_near: jax.Array, rest: jax.Array,
    vanishes: jax.Array, scale: jax.Array,
) -> jax.Array:  # fmt: skip
    """Terms q (k - c) with c the score of q's most probable class, for q itself or, mirrored, for p.

    Args:
        divergence: f for q, its reversal for p.
        mass: q, or p.
        near: terms where the other distribution is the smaller one, which `is_near` marks.
        far: terms where it is the larger one.
        is_near: where rho <= 0 (mirrored: >= 0).
        rest: what rho lacks (mirrored: with the sign turned).
        vanishes: where the other distribution is 0 and this one is not, which is near.
        scale: what the terms of the row are multiplied by, and the result is.
    """
    top = jnp.argmax(mass, axis=-1, keepdims=True)
    is_top = jax.lax.broadcasted_iota(top.dtype, mass.shape, mass.ndim - 1) == top

    def at_top(x):
        return _total(jnp.where(is_top, x, 0.0))

    limit = scale * (divergence.at_zero if divergence.at_zero < jnp.inf else 0.0)  # an infinite row has no gradient
    k = jnp.where(vanishes, limit, near.k)
    far_terms = far.slope - (far.slope + far.weight) * rest
    if divergence.score_drop is not None:
        # Where the other side hardly has the top class, k is close to f(0) there: count from f(0).
        k_drop = jnp.where(vanishes, 0.0, near.k_drop)
        use_drop = at_top(jnp.where(is_near, jnp.abs(k) - jnp.abs(k_drop), 0.0)) > 0.0
        k = jnp.where(use_drop, k_drop, k)
        far_terms = jnp.where(use_drop, far_terms - limit * mass, far_terms)
    change = jnp.where(vanishes, 0.0, near.h * rest)
    share = at_top(mass)
    center = at_top(jnp.where(is_near, k, far_terms / jnp.where(share > 0.0, share, 1.0)))
    center_change = at_top(jnp.where(is_near, change, 0.0))
    # The difference first, then its mass: classes that tie with the top one cancel exactly.
    near_terms = mass * ((k - center) - (change - center_change))
    center = center - center_change
    if _overflows(divergence.phi):
        near_terms = jnp.where(jnp.isfinite(near_terms), near_terms, near.score - near.weight * rest - center * mass)
    return jnp.where(is_top, 0.0, jnp.where(is_near, near_terms, far_terms - center * mass))


def terms(divergence: FDivergence, temperature: float, a: jax.Array, b: jax.Array) -> Terms:
    """Everything at once, for logits of one shape in float32 or float64, over the last axis.

    The temperature divides logits only after they were subtracted: a rounded quotient would cost the digits that
    near-equal logits have in common. The gradients are those for a / temperature and b / temperature.
    """
    p, q, rho, rest, only_p, only_q, undefined = _pair(a, b, 1.0 / temperature)
    mirror = divergence.reversed()
    is_low = rho <= 0.0
    x_low, x_high = jnp.where(is_low, rho, 0.0), jnp.where(is_low, 0.0, -rho)
    grows_low, grows_high = _overflows(divergence.phi), _overflows(mirror.phi)
    either = only_p | only_q | ((p == 0.0) & (q == 0.0))
    # d/drho of q phi(rho) is q r f'; of p phi_dual(-rho) it is -q k.
    low_slope = _times(q, _slope(divergence), x_low, grows_low)
    high_slope = _times(p, _slope(mirror), x_high, grows_high)
    change = rest * jnp.where(is_low, low_slope, -high_slope)
    value = jnp.where(
        is_low, _times(q, divergence.phi, x_low, grows_low), _times(p, mirror.phi, x_high, grows_high)
    ) + jnp.where(jnp.isfinite(change), change, 0.0)
    value = jnp.where(only_q, _boundary(q, divergence.at_zero), value)
    value = jnp.where(only_p, _boundary(p, divergence.dual_at_zero), value)
    value = jnp.maximum(jnp.sum(value, axis=-1), 0.0)
    finite = jnp.isfinite(value)[..., None]  # there is nothing to follow where the value is inf
    # k of the top class is at most a(a - 1) times the number of classes above the value: 2^40 is room for all of them.
    large = value[..., None] > float(jnp.finfo(value.dtype).max) ** 0.8
    scale = jnp.where(finite & large, 2.0**-40, 1.0).astype(value.dtype)
    low, high = _half(divergence, q, x_low, scale), _half(mirror, p, x_high, scale)
    weights = jnp.where(either, 0.0, jnp.where(is_low, low.weight, high.weight))
    scores = _recentred(divergence, q, low, high, is_low, rest, only_q, scale)
    links = _recentred(mirror, p, high, low, rho >= 0.0, -rest, only_p, scale)
    scores, links = jnp.where(only_p, 0.0, scores), jnp.where(only_q, 0.0, links)
    grad_p, grad_q = _gradient(links, p, finite, scale), _gradient(scores, q, finite, scale)
    links, scores, weights = (x / scale for x in (links, scores, weights))
    # Second derivatives reach the largest float before the gradients do.
    usable = finite & jnp.all(jnp.isfinite(links) & jnp.isfinite(scores) & jnp.isfinite(weights), -1, keepdims=True)
    links, scores, weights = (jnp.where(usable, x, 0.0) for x in (links, scores, weights))
    nan = jnp.where(undefined, jnp.nan, 0.0).astype(value.dtype)
    return Terms(value + nan[..., 0], grad_p + nan, grad_q + nan, p, q, links, scores, weights)


def _gradient(terms: jax.Array, mass: jax.Array, finite: jax.Array, scale: jax.Array) -> jax.Array:
    """Terms - mass * their sum, without the scale; 0 where a gradient is beyond the largest float."""
    gradient = (terms - mass * _total(terms)) / scale
    return jnp.where(finite & jnp.all(jnp.isfinite(gradient), -1, keepdims=True), gradient, 0.0)


def _boundary(mass: jax.Array, limit: float) -> jax.Array:
    """The cost of mass where the other distribution is 0: infinite however small the mass, where the limit is."""
    return jnp.full_like(mass, jnp.inf) if limit == jnp.inf else limit * mass


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def value_and_gradients(
    divergence: FDivergence, temperature: float, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Value ``[...]`` and gradients ``[..., V]`` for both logits; the derivative of the gradients is exact as well."""
    result = terms(divergence, temperature, a, b)
    return result.value, result.grad_p / temperature, result.grad_q / temperature


@value_and_gradients.defjvp
def _value_and_gradients_jvp(divergence, temperature, primals, tangents):
    a, b = primals
    da, db = (t / temperature for t in tangents)
    value, grad_p, grad_q, p, q, links, scores, weights = terms(divergence, temperature, a, b)
    u, v = da - _total(p * da), db - _total(q * db)  # of log p and of log q
    bent = weights * (u - v)  # d f' = r f'' drho, d k = -r^2 f'' drho
    d_links, d_scores = links * u + bent, scores * v - bent
    d_grad_p = d_links - p * (u * _total(links) + _total(d_links))
    d_grad_q = d_scores - q * (v * _total(scores) + _total(d_scores))
    d_value = jnp.sum(grad_p * da + grad_q * db, axis=-1)
    out = (value, grad_p / temperature, grad_q / temperature)
    return out, (d_value, d_grad_p / temperature, d_grad_q / temperature)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def value(divergence: FDivergence, temperature: float, a: jax.Array, b: jax.Array) -> jax.Array:
    """The value ``[...]`` alone; its derivative is the gradient of `value_and_gradients`, which has one as well."""
    return terms(divergence, temperature, a, b).value


@value.defjvp
def _value_jvp(divergence, temperature, primals, tangents):
    (a, b), (da, db) = primals, tangents
    out, grad_p, grad_q = value_and_gradients(divergence, temperature, a, b)
    return out, jnp.sum(grad_p * da + grad_q * db, axis=-1)
