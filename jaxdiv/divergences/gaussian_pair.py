"""The `Gaussian` record, and two of them in coordinates in which q is standard: L_q^{-1} L_p = I + E.

S = (I + E)(I + E)^T - I is the relative change of the covariance. E and S come from the difference of what was given,
not from the difference of two results, so that what is close keeps its digits.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_instance, check_same_shape, check_shape, fail, floating_array
from jaxdiv.numerics import promote
from jaxdiv.typing import Array, ArrayLike

matmul = functools.partial(jnp.matmul, precision="highest")  # an accelerator's fast float32 has ten bits


class Gaussian(NamedTuple):
    """A Gaussian or a batch of them: a mean and exactly one of three spreads.

    Give what you have: two covariances (or two factors) are compared by their difference, before anything is rounded.
    Nearly singular covariances keep their digits as factors, since a covariance squares them.

    >>> from jaxdiv.divergences.gaussian import gaussian_kl
    >>> gaussian_kl(p=Gaussian([1.0], variance=[1.0]), q=Gaussian([0.0], variance=[1.0])).item()
    0.5
    """

    mean: ArrayLike
    """``[..., d]``."""
    covariance: ArrayLike | None = None
    """``[..., d, d]``, symmetric and positive definite."""
    variance: ArrayLike | None = None
    """``[..., d]``, positive: the diagonal of a diagonal covariance."""
    scale_tril: ArrayLike | None = None
    """``[..., d, d]``, lower triangular with a positive diagonal: L of covariance L L^T. What is above is not read."""


class Pair(NamedTuple):
    """p seen from q. Matrices are ``[..., d, d]``; a diagonal pair is a batch ``[..., d]`` of one-dimensional ones."""

    shift: Array  # mean_p - mean_q
    scale_p: Array
    scale_q: Array
    change: Array  # covariance_p - covariance_q
    factor: Array  # I + E
    excess: Array  # E
    log_scale: Array  # log diag(I + E)
    relative: Array  # S
    diagonal: bool

    def whitened(self) -> Array:
        """L_q^{-1} (mean_p - mean_q)."""
        return solve(self.scale_q, self.shift[..., None])[..., 0]

    def total(self, value: Array) -> Array:
        """The sum over the coordinates of a diagonal pair, whose factors are one-dimensional."""
        return jnp.sum(value, axis=-1) if self.diagonal else value


def transposed(x: Array) -> Array:
    """The matrices transposed."""
    return jnp.swapaxes(x, -1, -2)


def entries_of(x: Array) -> Array:
    """The diagonal entries."""
    return jnp.diagonal(x, axis1=-2, axis2=-1)


def cholesky(x: Array) -> Array:
    """The lower triangular factor, NaN where there is none."""
    return jnp.sqrt(x) if x.shape[-1] == 1 else jnp.linalg.cholesky(x)


def solve(factor: Array, x: Array, *, transpose: bool = False) -> Array:
    """factor^{-1} x, or factor^{-T} x, of a lower triangular factor."""
    if factor.shape[-1] == 1:
        return x / factor
    return jax.lax.linalg.triangular_solve(factor, x, left_side=True, lower=True, transpose_a=transpose)


def svd(x: Array) -> tuple[Array, Array, Array]:
    """U, s and V^T of x = U diag(s) V^T; x >= 0 where it is a number."""
    if x.shape[-1] == 1:
        one = jnp.ones_like(x)
        return one, x[..., 0], one
    return jnp.linalg.svd(x, full_matrices=False)


def _between(factor: Array, x: Array) -> Array:
    """factor^{-1} x factor^{-T} of a symmetric x."""
    return solve(factor, transposed(solve(factor, x)))


def _lower_half(x: Array) -> Array:
    return jnp.tril(x) - 0.5 * entries_of(x)[..., None] * jnp.eye(x.shape[-1], dtype=x.dtype)


@jax.custom_jvp
def cholesky_excess(s: Array, factor: Array) -> Array:
    """F of (I + F)(I + F)^T = I + s, F lower triangular, relatively accurate for small s.

    For larger s the factor I + F is given: there may be a better way to it than I + s. It is not differentiated.
    """
    eye = jnp.eye(s.shape[-1], dtype=s.dtype)
    small = jnp.max(jnp.abs(s), axis=(-2, -1), keepdims=True) < 0.5
    factor = jnp.where(small, cholesky(eye + jnp.where(small, s, 0.0)), factor)  # exactly I at s = 0
    excess = factor - eye
    residual = s - excess - transposed(excess) - matmul(excess, transposed(excess))
    step = matmul(factor, _lower_half(_between(factor, residual)))  # one Newton step: its error is the square's
    return jnp.where(small, excess + step, excess)


@cholesky_excess.defjvp
def _cholesky_excess_jvp(primals, tangents):
    (s, factor), (ds, _) = primals, tangents
    excess = cholesky_excess(s, factor)
    factor = excess + jnp.eye(s.shape[-1], dtype=s.dtype)
    return excess, matmul(factor, _lower_half(_between(factor, (ds + transposed(ds)) / 2.0)))


def read_gaussian(function: str, argument: str, value: Gaussian) -> tuple[str, Array, Array]:
    """The kind of spread that was given, the mean and the spread, checked."""
    check_instance(function, argument, value, Gaussian)
    given = [kind for kind in ("covariance", "variance", "scale_tril") if getattr(value, kind) is not None]
    if len(given) != 1:
        expected = "exactly one of covariance, variance and scale_tril"
        raise fail(function, argument, f"gives {', '.join(given) or 'no spread'}", expected)
    mean = floating_array(function, f"{argument}.mean", value.mean)
    if mean.ndim == 0 or mean.size == 0:
        raise fail(function, f"{argument}.mean", f"has shape {mean.shape}", "shape (..., d) with d >= 1, not empty")
    name = f"{argument}.{given[0]}"
    spread = floating_array(function, name, getattr(value, given[0]))
    check_shape(function, name, spread, mean.shape if given[0] == "variance" else (*mean.shape, mean.shape[-1]))
    return given[0], promote(mean), promote(spread)


def _factor(kind: str, spread: Array) -> Array:
    if kind == "variance":
        return jnp.sqrt(spread)[..., None] * jnp.eye(spread.shape[-1], dtype=spread.dtype)
    return jnp.tril(spread) if kind == "scale_tril" else cholesky(spread)


def read_pair(function: str, p: Gaussian, q: Gaussian) -> Pair:
    """P seen from q, checked, in one dtype."""
    kind_p, mean_p, spread_p = read_gaussian(function, "p", p)
    kind_q, mean_q, spread_q = read_gaussian(function, "q", q)
    check_same_shape(function, **{"p.mean": mean_p, "q.mean": mean_q})
    dtype = jnp.result_type(mean_p, mean_q, spread_p, spread_q)
    mean_p, mean_q, spread_p, spread_q = (x.astype(dtype) for x in (mean_p, mean_q, spread_p, spread_q))
    diagonal = kind_p == kind_q == "variance"
    shift = mean_p - mean_q
    if diagonal:
        kind_p = kind_q = "covariance"
        shift, spread_p, spread_q = shift[..., None], spread_p[..., None, None], spread_q[..., None, None]
    scale_p, scale_q = _factor(kind_p, spread_p), _factor(kind_q, spread_q)
    ratio = entries_of(scale_p) / entries_of(scale_q)
    factor, eye = solve(scale_q, scale_p), jnp.eye(shift.shape[-1], dtype=dtype)
    if kind_p == kind_q == "covariance":
        change = spread_p - spread_q
        relative = _between(scale_q, change)
        small = jnp.max(jnp.abs(relative), axis=(-2, -1), keepdims=True) < 0.5
        excess = jnp.where(small, cholesky_excess(jnp.where(small, relative, 0.0), factor), factor - eye)
    else:
        difference = scale_p - scale_q
        change = matmul(difference, transposed(scale_p)) + matmul(scale_q, transposed(difference))
        excess = solve(scale_q, difference)
        relative = excess + transposed(excess) + matmul(excess, transposed(excess))
    entries = entries_of(excess)
    near = jnp.abs(entries) < 0.5
    log_scale = jnp.where(near, jnp.log1p(jnp.where(near, entries, 0.0)), jnp.log(ratio))
    return Pair(shift, scale_p, scale_q, change, factor, excess, log_scale, relative, diagonal)
