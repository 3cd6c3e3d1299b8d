"""Divergences between Gaussians in closed form, exact near p = q and never negative; full, diagonal, batched.

Diagonal Gaussians are one-dimensional ones summed. See `gaussian_pair` for the coordinates all formulas stand in.
"""

import math

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_real, fail
from jaxdiv.divergences.bures import squared_bures
from jaxdiv.divergences.gaussian_pair import (
    Gaussian,
    Pair,
    cholesky,
    cholesky_excess,
    entries_of,
    read_gaussian,
    read_pair,
    solve,
    transposed,
)
from jaxdiv.numerics import log1p, power_generator
from jaxdiv.typing import Array


def _trace_minus_log_det(excess: Array, log_scale: Array) -> Array:
    """Tr S - log det(I + S), from its factor I + E: |E|^2 + 2 sum (E_ii - log(1 + E_ii)), no term below 0."""
    return jnp.sum(jnp.square(excess), axis=(-2, -1)) + 2.0 * jnp.sum(power_generator(log_scale, 0.0), axis=-1)


def _kl(pair: Pair) -> Array:
    spread = _trace_minus_log_det(pair.excess, pair.log_scale)
    return pair.total(spread + jnp.sum(jnp.square(pair.whitened()), axis=-1)) / 2.0


def gaussian_kl(*, p: Gaussian, q: Gaussian) -> Array:
    r"""KL(p || q) = (tr S - log det(I + S) + (m_p - m_q)^T C_q^{-1} (m_p - m_q)) / 2, S = L_q^{-1} C_p L_q^{-T} - I.

    For KL(q || p) swap the keywords. tr S - log det(I + S) is |E|^2 + 2 sum (E_ii - log(1 + E_ii)) with the triangular
    factor I + E of I + S: a sum of squares and of e^x - 1 - x, so nothing cancels and nothing is below 0.

    Args:
        p: a `Gaussian` with means ``[..., d]``; q one of the same shape. The kinds of spread may differ.
        q: see p.

    Returns:
        ``[...]``, float32 or float64; NaN where a covariance is not positive definite. Differentiable in everything.

    Raises:
        ValueError: p or q is no Gaussian with one spread, holds no real floating numbers, or shapes do not agree.

    >>> p, q = Gaussian([0.0], variance=[4.0]), Gaussian([1.0], variance=[1.0])
    >>> round(gaussian_kl(p=p, q=q).item(), 6)  # (4 - log 4 - 1 + 1) / 2
    1.306853

    Source: Kullback, "Information Theory and Statistics" (1959), chapter 9.
    """
    return _kl(read_pair("gaussian_kl", p, q))


def gaussian_jeffreys(*, p: Gaussian, q: Gaussian) -> Array:
    r"""Jeffreys' divergence KL(p || q) + KL(q || p); arguments, result and errors as `gaussian_kl`.

    >>> p, q = Gaussian([0.0], variance=[1.0]), Gaussian([1.0], variance=[1.0])
    >>> gaussian_jeffreys(p=p, q=q).item()
    1.0
    """
    return _kl(read_pair("gaussian_jeffreys", p, q)) + _kl(read_pair("gaussian_jeffreys", q, p))


def _mixed_factor(order: float, factor: Array) -> Array:
    """The lower factor of a I + (1 - a) L L^T, by QR: a thin direction beside a wide one is not squared away."""
    eye = jnp.broadcast_to(jnp.eye(factor.shape[-1], dtype=factor.dtype), factor.shape)
    if factor.shape[-1] == 1:
        return jnp.sqrt(order * eye + (1.0 - order) * jnp.square(factor))
    rows = jnp.concatenate([math.sqrt(order) * eye, math.sqrt(1.0 - order) * transposed(factor)], axis=-2)
    upper = jnp.linalg.qr(rows, mode="r")
    return transposed(jnp.where(entries_of(upper)[..., None] < 0.0, -upper, upper))


def _renyi_parts(order: float, pair: Pair) -> tuple[Array, Array]:
    """The terms of the means and of the covariances, per factor; order >= 1/2, not 1. Both inf without an integral."""
    rest = 1.0 - order
    s = rest * pair.relative
    eye, fixed = jnp.eye(s.shape[-1], dtype=s.dtype), jax.lax.stop_gradient(s)
    exists = jnp.ones(s.shape[:-2], bool)
    if order > 1.0:  # I + s may be indefinite: q's tails are then too light for the integral of p^a q^{1-a}
        factor = cholesky(eye + fixed)
        exists = jnp.all(entries_of(factor) > 0.0, axis=-1) | jnp.any(jnp.isnan(fixed), axis=(-2, -1))
        s = jnp.where(exists[..., None, None], s, 0.0)
        factor = jnp.where(exists[..., None, None], factor, eye)
    else:
        factor = _mixed_factor(order, jax.lax.stop_gradient(pair.factor))
    excess = cholesky_excess(s, factor)
    log_scale = log1p(entries_of(excess))
    shift = solve(excess + eye, pair.whitened()[..., None])[..., 0]
    near = _trace_minus_log_det(pair.excess, pair.log_scale) - _trace_minus_log_det(excess, log_scale) / rest
    spread = near / 2.0
    if order < 1.0:  # the traces cancel where p is much wider than q, and are not needed there
        wide = jnp.max(jnp.abs(pair.relative), axis=(-2, -1)) > 4.0
        spread = jnp.where(wide, jnp.sum(log_scale / rest - pair.log_scale, axis=-1), spread)
    means = order / 2.0 * jnp.sum(jnp.square(shift), axis=-1)
    means, spread = (pair.total(jnp.where(exists, part, jnp.inf)) for part in (means, jnp.maximum(spread, 0.0)))
    return means, spread


def gaussian_renyi(order: float, *, p: Gaussian, q: Gaussian) -> Array:
    r"""Renyi's divergence log(integral p^a q^{1-a}) / (a - 1) of order a.

    With C = a C_q + (1 - a) C_p and d = m_p - m_q it is a/2 d^T C^{-1} d - log(|C| / (|C_p|^{1-a} |C_q|^a)) / (2 (a -
    1)), and inf for a > 1 where C is not positive definite. Order 1 is KL(p || q); orders below 1/2 go through
    R_a(p || q) = a / (1 - a) R_{1-a}(q || p).

    Args:
        order: a positive finite Python number.
        p: a `Gaussian` with means ``[..., d]``; q one of the same shape.
        q: see p.

    Returns:
        ``[...]`` >= 0, float32 or float64. Differentiable in the Gaussians; the gradient is 0 where the value is inf.

    Raises:
        ValueError: the order is out of range, or as `gaussian_kl`.

    >>> p, q = Gaussian([0.0], variance=[1.0]), Gaussian([2.0], variance=[1.0])
    >>> gaussian_renyi(0.5, p=p, q=q).item(), gaussian_renyi(3, p=p, q=q).item()  # a d^2 / 2
    (1.0, 6.0)

    Source: Gil, Alajaji, Linder, "Renyi divergence measures for commonly used univariate continuous distributions"
    (2013), table 2.
    """
    return _renyi("gaussian_renyi", order, p, q)


def _renyi(function: str, order: float, p: Gaussian, q: Gaussian) -> Array:
    check_real(function, "order", order, 0.0, math.inf, open_low=True, open_high=True)
    order = float(order)
    if order == 1.0:
        return _kl(read_pair(function, p, q))
    if order < 0.5:
        read_pair(function, p, q)  # for its checks, whose messages then name the arguments as they came
        means, spread = _renyi_parts(1.0 - order, read_pair(function, q, p))
        return order / (1.0 - order) * (means + spread)
    means, spread = _renyi_parts(order, read_pair(function, p, q))
    return means + spread


def gaussian_bhattacharyya(*, p: Gaussian, q: Gaussian) -> Array:
    r"""The Bhattacharyya distance -log(integral sqrt(p q)), half of `gaussian_renyi` of order 1/2; the rest as there.

    >>> p, q = Gaussian([0.0], variance=[1.0]), Gaussian([4.0], variance=[1.0])
    >>> gaussian_bhattacharyya(p=p, q=q).item()  # d^2 / 8
    2.0
    """
    return _renyi("gaussian_bhattacharyya", 0.5, p, q) / 2.0


def gaussian_squared_hellinger(*, p: Gaussian, q: Gaussian) -> Array:
    r"""The squared Hellinger distance, integral (sqrt p - sqrt q)^2 = 2 - 2 e^{-Bhattacharyya}, without a factor 1/2.

    >>> p, q = Gaussian([0.0], variance=[1.0]), Gaussian([4.0], variance=[1.0])
    >>> round(gaussian_squared_hellinger(p=p, q=q).item(), 6)
    1.729329
    """
    return -2.0 * jnp.expm1(-_renyi("gaussian_squared_hellinger", 0.5, p, q) / 2.0)


def gaussian_cauchy_schwarz(*, p: Gaussian, q: Gaussian) -> Array:
    r"""The Cauchy-Schwarz divergence -log((integral p q)^2 / (integral p^2 integral q^2)).

    It is log |C| - (log |C_p| + log |C_q|) / 2 + d^T C^{-1} d / 2 with C = (C_p + C_q) / 2: the two terms of Renyi's
    divergence of order 1/2, the one of the means doubled. Arguments, result and errors as `gaussian_kl`.

    >>> p, q = Gaussian([0.0], variance=[1.0]), Gaussian([2.0], variance=[1.0])
    >>> gaussian_cauchy_schwarz(p=p, q=q).item()
    2.0

    Source: Jenssen, Principe, Erdogmus, Eltoft, "The Cauchy-Schwarz divergence and Parzen windowing" (2006).
    """
    means, spread = _renyi_parts(0.5, read_pair("gaussian_cauchy_schwarz", p, q))
    return 2.0 * means + spread


def gaussian_fisher_divergence(*, p: Gaussian, q: Gaussian) -> Array:
    r"""The Fisher divergence E_p |grad log p - grad log q|^2, the score-matching objective without a factor 1/2.

    |(C_q^{-1} - C_p^{-1}) L_p|^2 + |C_q^{-1} (m_p - m_q)|^2. Arguments, result and errors as `gaussian_kl`.

    >>> p, q = Gaussian([0.0], variance=[4.0]), Gaussian([1.0], variance=[1.0])
    >>> gaussian_fisher_divergence(p=p, q=q).item()  # (3/4)^2 4 + 1
    3.25

    Source: Hyvarinen, "Estimation of non-normalized statistical models by score matching" (2005), equation 2.
    """
    pair = read_pair("gaussian_fisher_divergence", p, q)
    # S M^{-T} of the factor M = I + E is M - M^{-T}, and better computed so where S is large.
    eye = jnp.broadcast_to(jnp.eye(pair.shift.shape[-1], dtype=pair.shift.dtype), pair.factor.shape)
    inverse = solve(pair.factor, eye)
    small = jnp.max(jnp.abs(pair.relative), axis=(-2, -1), keepdims=True) < 0.5
    near = transposed(solve(pair.factor, pair.relative))
    whitened = jnp.where(small, near, pair.factor - transposed(inverse))
    spread = solve(pair.scale_q, whitened, transpose=True)
    means = solve(pair.scale_q, pair.whitened()[..., None], transpose=True)
    return pair.total(jnp.sum(jnp.square(spread), axis=(-2, -1)) + jnp.sum(jnp.square(means), axis=(-2, -1)))


def gaussian_squared_wasserstein(*, p: Gaussian, q: Gaussian) -> Array:
    r"""The squared 2-Wasserstein distance |m_p - m_q|^2 + tr(C_p + C_q - 2 (C_q^{1/2} C_p C_q^{1/2})^{1/2}).

    The roots are singular values of products of factors. The gradient is that of optimal transport, I - T with T the
    map between the two, so it exists where covariances are equal, commute or have equal eigenvalues; second derivatives
    too.

    Args:
        p: a `Gaussian` with means ``[..., d]``; q one of the same shape. As `scale_tril`, either may be singular: the
            value is then right to rounding of the traces, and the gradient leaves the missing directions out.
        q: see p.

    Returns:
        ``[...]`` >= 0, float32 or float64.

    Raises:
        ValueError: as `gaussian_kl`.

    >>> p, q = Gaussian([0.0], variance=[4.0]), Gaussian([3.0], variance=[1.0])
    >>> gaussian_squared_wasserstein(p=p, q=q).item()  # 3^2 + (2 - 1)^2
    10.0

    Source: Olkin and Pukelsheim, "The distance between two random vectors with given dispersion matrices" (1982).
    """
    pair = read_pair("gaussian_squared_wasserstein", p, q)
    change = jax.lax.stop_gradient(pair.change)  # its derivative is that of the factors
    # In units of the largest scale: the distance of two covariances takes the fourth power of a scale on the way.
    unit = jnp.maximum(*(jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True) for x in (pair.scale_p, pair.scale_q)))
    unit = jax.lax.stop_gradient(jnp.where((unit > 0.0) & jnp.isfinite(unit), unit, 1.0))
    spread = squared_bures(pair.scale_p / unit, pair.scale_q / unit, change / unit / unit)
    spread = unit[..., 0, 0] * (unit[..., 0, 0] * spread)
    return pair.total(spread + jnp.sum(jnp.square(pair.shift), axis=-1))


def gaussian_squared_fisher_rao(*, p: Gaussian, q: Gaussian) -> Array:
    r"""The squared Fisher-Rao distance of diagonal Gaussians: sum of 8 asinh(sqrt u)^2 over the coordinates,

    u = ((m_p - m_q)^2 / 2 + (s_p - s_q)^2) / (4 s_p s_q) with standard deviations s: the geodesic distance of a product
    of hyperbolic planes. Full covariances have no closed form.

    Args:
        p: a `Gaussian` given by its variance; q another of the same shape.
        q: see p.

    Returns:
        ``[...]`` >= 0, float32 or float64; smooth where p = q, unlike its square root.

    Raises:
        ValueError: p or q is not given by its variance, or as `gaussian_kl`.

    >>> p, q = Gaussian([0.0], variance=[1.0]), Gaussian([0.0], variance=[7.389056])
    >>> round(gaussian_squared_fisher_rao(p=p, q=q).item(), 5)  # 2 (log s_p / s_q)^2
    2.0

    Source: Costa, Santos, Strapasson, "Fisher information distance: a geometrical reading" (arXiv:1210.2354).
    """
    for name, value in (("p", p), ("q", q)):
        if read_gaussian("gaussian_squared_fisher_rao", name, value)[0] != "variance":
            raise fail("gaussian_squared_fisher_rao", name, "has a full covariance", "one given by its variance")
    pair = read_pair("gaussian_squared_fisher_rao", p, q)
    scale_p, scale_q = pair.scale_p[..., 0, 0], pair.scale_q[..., 0, 0]
    scales = pair.change[..., 0, 0] / (scale_p + scale_q)
    u = (jnp.square(pair.shift[..., 0]) / 2.0 + jnp.square(scales)) / (4.0 * scale_p * scale_q)
    small = u < 1e-5
    far = jnp.square(jnp.arcsinh(jnp.sqrt(jnp.where(small, 1.0, u))))
    return pair.total(8.0 * jnp.where(small, u * (1.0 + u * (-1.0 / 3.0 + u * 8.0 / 45.0)), far))
