r"""Divergences within an exponential family that is given by its log-partition alone, by automatic differentiation.

A member has the density exp(<eta, T(x)> - A(eta)) against a fixed measure, with natural parameters eta and the
log-partition A, a convex function ``[d] -> []`` that jax can differentiate. Its gradient is the mean of T, its Hessian
the covariance of T. Every divergence here is a Bregman divergence of A, or two. Parameters are ``[..., d]``, A sees one
vector at a time; A may depend on further arrays, and everything but `information_projection`'s iteration count is
differentiable in them.
"""

import math
import reprlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_integer, check_real, check_same_shape, check_shape, fail, floating_array
from jaxdiv.numerics import promote, vary_alike, vary_as
from jaxdiv.typing import Array, ArrayLike

LogPartitionFn = Callable[[Array], Array]
"""``eta [d] -> A(eta) []``; inf or NaN outside its domain."""


def read_vectors(function: str, potential_fn: LogPartitionFn, **arrays: ArrayLike) -> list[Array]:
    """Checked vectors of one shape and dtype, which the potential takes one at a time."""
    values = {name: floating_array(function, name, value) for name, value in arrays.items()}
    name, first = next(iter(values.items()))
    if first.ndim == 0 or first.size == 0:
        raise fail(function, name, f"has shape {first.shape}", "shape (..., d) with d >= 1, not empty")
    check_same_shape(function, **values)
    dtype = jnp.result_type(jnp.float32, *values.values())
    argument = "potential_fn" if function == "bregman_divergence" else "log_partition_fn"
    expected = f"a function of a vector [{first.shape[-1]}] that returns one floating number"
    if not callable(potential_fn):
        raise fail(function, argument, f"is {reprlib.repr(potential_fn)}", expected)
    try:
        out = jax.eval_shape(potential_fn, jax.ShapeDtypeStruct(first.shape[-1:], dtype))
    except (TypeError, ValueError, IndexError) as error:
        raise fail(function, argument, f"raises {type(error).__name__}", expected) from error
    if getattr(out, "shape", None) != () or not jnp.issubdtype(out.dtype, jnp.floating):
        raise fail(function, argument, f"returns {reprlib.repr(out)}", expected)
    return vary_alike([promote(value).astype(dtype) for value in values.values()])


def over_rows(fn: Callable[..., Array], *arrays: Array) -> Array:
    """fn, which takes vectors, over all leading dimensions."""
    for _ in range(arrays[0].ndim - 1):
        fn = jax.vmap(fn)
    return fn(*arrays)


def _rule(num_nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes t in (0, 1) and the weights of (1 - t) dt."""
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    nodes = (nodes + 1.0) / 2.0
    return nodes, weights / 2.0 * (1.0 - nodes)


_COARSE, _FINE = _rule(5), _rule(10)


def _bregman(potential_fn: LogPartitionFn, p: Array, q: Array, u: Array) -> Array:
    """F(p) - F(q) - <grad F(q), u> of vectors, u = p - q; all three are given, as each loses digits of another.

    The remainder of Taylor's formula, the integral of (1 - t) u^T Hess F(q + t u) u, is a sum of terms >= 0: it has no
    cancellation, however small u is. Two Gauss rules tell its error. Where that is above the rounding of the
    difference, or both rules have missed a bump between far points, the difference is taken.
    """
    outside = potential_fn(jax.lax.stop_gradient(p)) == jnp.inf
    p, u = jnp.where(outside, q, p), jnp.where(outside, 0.0, u)  # so that the gradient of an infinite value is 0
    at_q, slope = jax.jvp(potential_fn, (q,), (u,))
    at_p = potential_fn(p)
    direct = at_p - at_q - slope

    def bend(t):
        def along(t):
            return jax.jvp(potential_fn, (q + t * u,), (u,))[1]

        return jax.jvp(along, (t,), (jnp.ones_like(t),))[1]

    def integral(rule):
        nodes, weights = (jnp.asarray(x, u.dtype) for x in rule)
        return jnp.sum(weights * jax.vmap(bend)(nodes))

    coarse, fine = integral(_COARSE), integral(_FINE)
    # The difference of the rules is the coarse one's error; the fine one has twice its digits, down to rounding.
    eps = float(jnp.finfo(u.dtype).eps)
    error = jnp.square(coarse - fine) / jnp.maximum(jnp.abs(fine), jnp.finfo(u.dtype).tiny) + 2.0 * eps * jnp.abs(fine)
    rounding = eps * (jnp.abs(at_p) + jnp.abs(at_q) + jnp.abs(slope))
    agrees = jnp.abs(fine - direct) <= 8.0 * rounding + 8.0 * eps * jnp.abs(fine)
    value = jnp.where((error <= rounding) & agrees, fine, direct)
    return jnp.where(outside, jnp.inf, jnp.maximum(value, 0.0))


def bregman_divergence(potential_fn: LogPartitionFn, *, p: ArrayLike, q: ArrayLike) -> Array:
    r"""The Bregman divergence F(p) - F(q) - <grad F(q), p - q> of a convex function F, accurate near p = q.

    Args:
        potential_fn: F, ``[d] -> []``, convex and twice differentiable by jax.
        p: points ``[..., d]``, floating; float16 and bfloat16 are computed in float32.
        q: the points of expansion, of p's shape.

    Returns:
        ``[...]`` >= 0, float32 or float64; inf, with gradient 0, where F(p) is inf. Differentiable in p, q and what
        `potential_fn` closes over.

    Raises:
        ValueError: potential_fn is not callable or returns no single floating number for a vector; p or q is no
            floating array with a last axis, or their shapes differ.

    >>> p, q = jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0])
    >>> float(bregman_divergence(lambda x: jnp.sum(x**2), p=p, q=q))  # |p - q|^2
    5.0

    Source: Bregman, "The relaxation method of finding the common point of convex sets" (1967).
    """
    p, q = read_vectors("bregman_divergence", potential_fn, p=p, q=q)
    return over_rows(lambda p, q: _bregman(potential_fn, p, q, p - q), p, q)


def exponential_family_kl(log_partition_fn: LogPartitionFn, *, p_natural: ArrayLike, q_natural: ArrayLike) -> Array:
    r"""KL(p || q) = A(eta_q) - A(eta_p) - <grad A(eta_p), eta_q - eta_p>: a Bregman divergence with its sides swapped.

    Args:
        log_partition_fn: A, ``[d] -> []``.
        p_natural: natural parameters of p, ``[..., d]``.
        q_natural: natural parameters of q, of p's shape.

    Returns:
        ``[...]`` >= 0; dtypes, derivatives and errors as `bregman_divergence`.

    >>> p, q = jnp.log(jnp.array([2.0])), jnp.log(jnp.array([1.0]))  # Poisson of means 2 and 1
    >>> round(float(exponential_family_kl(poisson_log_partition, p_natural=p, q_natural=q)), 6)  # 2 log 2 - 1
    0.386294

    Source: Nielsen and Nock, "Entropies and cross-entropies of exponential families" (2010).
    """
    p, q = read_vectors("exponential_family_kl", log_partition_fn, p_natural=p_natural, q_natural=q_natural)
    return over_rows(lambda p, q: _bregman(log_partition_fn, q, p, q - p), p, q)


def exponential_family_renyi(
    order: float, log_partition_fn: LogPartitionFn, *, p_natural: ArrayLike, q_natural: ArrayLike
) -> Array:
    r"""Renyi's divergence (A(c) - a A(eta_p) - (1 - a) A(eta_q)) / (a - 1) of order a, c = a eta_p + (1 - a) eta_q.

    The gap of Jensen's inequality is taken as Bregman divergences from the point between, none of which cancels:
    (a B(eta_p, c) + (1 - a) B(eta_q, c)) / (1 - a) for a < 1 and B(c, eta_p) / (a - 1) + B(eta_q, eta_p) for a > 1.

    Args:
        order: a positive finite Python number; 1 is KL(p || q).
        log_partition_fn: A, ``[d] -> []``; for a > 1 it has to be inf, not finite, where c leaves its domain.
        p_natural: natural parameters of p, ``[..., d]``.
        q_natural: natural parameters of q, of p's shape.

    Returns:
        ``[...]`` >= 0; dtypes, derivatives and errors as `bregman_divergence`.

    >>> p, q = jnp.log(jnp.array([4.0])), jnp.log(jnp.array([1.0]))  # Poisson of means 4 and 1
    >>> round(float(exponential_family_renyi(0.5, poisson_log_partition, p_natural=p, q_natural=q)), 6)  # (2 - 1)^2
    1.0

    Source: Nielsen and Nock, "On Renyi and Tsallis entropies and divergences for exponential families"
    (arXiv:1105.3259).
    """
    function = "exponential_family_renyi"
    check_real(function, "order", order, 0.0, math.inf, open_low=True, open_high=True)
    a, rest = float(order), 1.0 - float(order)
    p, q = read_vectors(function, log_partition_fn, p_natural=p_natural, q_natural=q_natural)

    def divergence(p, q):
        u = q - p
        if a == 1.0:
            return _bregman(log_partition_fn, q, p, u)
        c = p + rest * u
        if a < 1.0:
            return a / rest * _bregman(log_partition_fn, p, c, -rest * u) + _bregman(log_partition_fn, q, c, a * u)
        return _bregman(log_partition_fn, c, p, rest * u) / -rest + _bregman(log_partition_fn, q, p, u)

    return over_rows(divergence, p, q)


def mean_parameters(log_partition_fn: LogPartitionFn, *, natural: ArrayLike) -> Array:
    r"""The means of the sufficient statistics, E[T(x)] = grad A(eta).

    Args:
        log_partition_fn: A, ``[d] -> []``.
        natural: natural parameters ``[..., d]``.

    Returns:
        ``[..., d]``, float32 or float64. Errors as `bregman_divergence`.

    >>> float(mean_parameters(bernoulli_log_partition, natural=jnp.array([0.0]))[0])
    0.5
    """
    (natural,) = read_vectors("mean_parameters", log_partition_fn, natural=natural)
    return over_rows(jax.grad(log_partition_fn), natural)


class Projection(NamedTuple):
    """Where Newton's method ended."""

    natural: Array
    """Natural parameters ``[..., d]``; differentiable in the moments and in what the log-partition closes over."""
    residual: Array
    """Largest difference between its mean parameters and the moments, ``[...]``."""
    num_steps: Array
    """Steps taken, ``[...]`` int32."""
    converged: Array
    """Whether the residual is within the tolerance, ``[...]``."""


def information_projection(
    log_partition_fn: LogPartitionFn,
    *,
    moments: ArrayLike,
    init: ArrayLike,
    num_steps: int = 100,
    tolerance: float | None = None,
) -> Projection:
    r"""The member of the family whose mean parameters are the given moments: grad A(eta) = moments.

    It minimises KL(g || member) over the family for every g with E_g[T] = moments, so with sample means it is the
    maximum likelihood estimate; and among all g with these moments it is the nearest to the base measure. Newton's
    method on the convex A(eta) - <eta, moments>, each step halved until it decreases the function or the residual and
    stays in the domain. The gradient is that of the solution (implicit function theorem), not of the steps.

    Args:
        log_partition_fn: A, ``[d] -> []``, strictly convex (a minimal family), inf or NaN outside its domain.
        moments: the wanted means of T, ``[..., d]``, in the interior of what the family reaches.
        init: where to start, of moments' shape, inside the domain.
        num_steps: the most steps, a Python integer of at least 1.
        tolerance: on max |grad A - moments| / (1 + max |moments|); by default 8 rounding units of the dtype.

    Returns:
        A `Projection`, float32 or float64. What cannot be reached, or not with this precision, has `converged` False.

    Raises:
        ValueError: num_steps or tolerance is out of range, or as `bregman_divergence`.

    >>> result = information_projection(poisson_log_partition, moments=jnp.array([3.0]), init=jnp.array([0.0]))
    >>> round(float(jnp.exp(result.natural[0])), 5), bool(result.converged)
    (3.0, True)

    Source: Csiszar, "I-divergence geometry of probability distributions and minimization problems" (1975).
    """
    function = "information_projection"
    check_integer(function, "num_steps", num_steps, 1)
    moments, init = read_vectors(function, log_partition_fn, moments=moments, init=init)
    if tolerance is not None:
        check_real(function, "tolerance", tolerance, 0.0, math.inf, open_low=True, open_high=True)
    relative = float(tolerance or 8.0 * jnp.finfo(moments.dtype).eps)
    gradient_fn = jax.grad(log_partition_fn)

    def project(moments, init):
        def residual_of(natural):
            return gradient_fn(natural) - moments

        def size(natural):
            return jnp.max(jnp.abs(residual_of(natural)))

        def height(natural):
            return log_partition_fn(natural) - jnp.dot(natural, moments, precision="highest")

        goal = relative * (1.0 + jnp.max(jnp.abs(moments)))

        def step(state):
            natural, count, _ = state
            direction = jnp.linalg.solve(jax.hessian(log_partition_fn)(natural), residual_of(natural))
            start, slope = height(natural), jnp.dot(direction, residual_of(natural), precision="highest")
            start_size = size(natural)
            parts = jnp.abs(log_partition_fn(natural)) + jnp.abs(jnp.dot(natural, moments, precision="highest"))
            rounding = 8.0 * float(jnp.finfo(start.dtype).eps) * (1.0 + parts)

            def rejects(length):
                there = natural - length * direction
                # Half of a quadratic's decrease: what steps far into a flat tail, where no Hessian leads back, fails.
                lower = height(there) <= start - 0.25 * length * slope
                # Near the solution the function is flat to rounding, and the residual has to tell.
                closer = (size(there) < start_size) & (jnp.abs(height(there) - start) <= rounding)
                return ~(jnp.isfinite(height(there)) & jnp.isfinite(size(there)) & (lower | closer))

            def shorter(state):
                length, tries = state
                return length / 2.0, tries + 1

            first = vary_as((jnp.ones_like(start), jnp.int32(0)), start)
            length, tries = jax.lax.while_loop(lambda s: rejects(s[0]) & (s[1] < 60), shorter, first)
            stuck = tries == 60
            return jnp.where(stuck, natural, natural - length * direction), count + 1, stuck

        def solve(_, start):
            def unfinished(state):
                natural, count, stuck = state
                return (size(natural) > goal) & (count < num_steps) & ~stuck

            first = vary_as((start, jnp.int32(0), jnp.array(False)), residual_of(start))
            natural, count, _ = jax.lax.while_loop(unfinished, step, first)
            return natural, count.astype(natural.dtype)  # a number without a derivative has to be a float here

        def tangent_solve(linear, y):
            return jnp.linalg.solve(jax.jacobian(linear)(jnp.zeros_like(y)), y)

        natural, count = jax.lax.custom_root(residual_of, init, solve, tangent_solve, has_aux=True)
        residual = jax.lax.stop_gradient(size(natural))
        count = jax.lax.stop_gradient(count).astype(jnp.int32)
        return Projection(natural, residual, count, residual <= jax.lax.stop_gradient(goal))

    return over_rows(project, moments, jax.lax.stop_gradient(init))


def _natural(function: str, natural: ArrayLike, size: int | None) -> Array:
    """The natural parameters of one member, a floating vector."""
    natural = floating_array(f"{function}_log_partition", "natural", natural)
    if natural.shape == (0,):
        raise fail(f"{function}_log_partition", "natural", f"has shape {natural.shape}", "shape (d,) with d >= 1")
    check_shape(f"{function}_log_partition", "natural", natural, (size,))
    return natural


# Each of the following takes one floating vector, of the size that it names, and raises ValueError for anything else.


def bernoulli_log_partition(natural: ArrayLike) -> Array:
    """A = log(1 + e^eta), eta ``[1]`` the log-odds, T = x.

    >>> round(float(bernoulli_log_partition(jnp.zeros(1))), 6)
    0.693147
    """
    return jnp.sum(jax.nn.softplus(_natural("bernoulli", natural, 1)))


def categorical_log_partition(natural: ArrayLike) -> Array:
    """A = log(1 + sum e^eta), eta ``[d]`` the log-odds of d classes to the class d + 1, T the indicators of the d.

    >>> round(float(categorical_log_partition(jnp.zeros(2))), 6)
    1.098612
    """
    natural = _natural("categorical", natural, None)
    return jax.nn.logsumexp(jnp.concatenate([natural, jnp.zeros_like(natural[:1])]))


def poisson_log_partition(natural: ArrayLike) -> Array:
    """A = e^eta, eta ``[1]`` the log of the mean, T = x.

    >>> float(poisson_log_partition(jnp.zeros(1)))
    1.0
    """
    return jnp.sum(jnp.exp(_natural("poisson", natural, 1)))


def exponential_log_partition(natural: ArrayLike) -> Array:
    """A = -log(-eta), eta ``[1]`` minus the rate, T = x; inf for eta >= 0.

    >>> round(float(exponential_log_partition(-2 * jnp.ones(1))), 6)
    -0.693147
    """
    natural = _natural("exponential", natural, 1)
    outside = natural >= 0.0
    return jnp.sum(jnp.where(outside, jnp.inf, -jnp.log(jnp.where(outside, 1.0, -natural))))


def gaussian_log_partition(natural: ArrayLike) -> Array:
    """A = -eta_1^2 / (4 eta_2) - log(-2 eta_2) / 2 of N(m, v), eta ``[2]`` = (m / v, -1 / (2 v)), T = (x, x^2).

    Against the standard measure dx / sqrt(2 pi); inf for eta_2 >= 0.

    >>> float(gaussian_log_partition(jnp.array([1.0, -0.5])))
    0.5
    """
    natural = _natural("gaussian", natural, 2)
    outside = natural[1] >= 0.0
    second = jnp.where(outside, -0.5, natural[1])
    return jnp.where(outside, jnp.inf, -jnp.square(natural[0]) / (4.0 * second) - jnp.log(-2.0 * second) / 2.0)
