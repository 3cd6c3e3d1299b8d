"""What the singular values of matrices say: a report, two kinds of rank, the nuclear norm and its gradient."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import fail, floating_array
from jaxdiv.numerics import promote
from jaxdiv.optimizers.polar import orthogonalize
from jaxdiv.optimizers.schedules import Schedule, find_schedule
from jaxdiv.typing import Array, ArrayLike


class SingularValueReport(NamedTuple):
    """Numbers per matrix, each ``[...]`` in float32 (float64 where the matrix is)."""

    smallest: Array
    first_percentile: Array
    """Linearly interpolated, as numpy does it."""
    median: Array
    largest: Array
    polar_error: Array
    """``|X - U V^T|_F / |U V^T|_F``: the root mean square of sigma - 1."""
    effective_rank: Array
    """See `effective_rank`."""
    stable_rank: Array
    """See `stable_rank`."""


def singular_value_report(x: ArrayLike) -> SingularValueReport:
    """Singular values of ``[..., m, n]`` in seven numbers per matrix.

    Args:
        x: any floating dtype; the decomposition is in float32 at least.

    Raises:
        ValueError: where x is no array of matrices with entries.

    >>> report = singular_value_report(jnp.diag(jnp.array([1.0, 1.0, 0.5])))
    >>> round(float(report.polar_error), 4), round(float(report.stable_rank), 4)
    (0.2887, 2.25)
    """
    sigma = _singular_values("singular_value_report", x)
    return SingularValueReport(
        sigma[..., -1],
        jnp.percentile(sigma, 1.0, axis=-1),
        jnp.median(sigma, axis=-1),
        sigma[..., 0],
        jnp.sqrt(jnp.mean(jnp.square(sigma - 1.0), axis=-1)),
        _effective_rank(sigma),
        _stable_rank(sigma),
    )


def effective_rank(x: ArrayLike) -> Array:
    """``exp(H(p))`` with p the singular values over their sum and H the entropy in nats, per matrix of ``[..., m, n]``.

    Between 1 and min(m, n); 0 for a matrix of zeros. In float32 (float64 where x is).

    Raises:
        ValueError: where x is no array of matrices with entries.

    Source: Roy and Vetterli, The effective rank: a measure of effective dimensionality (EUSIPCO 2007).

    >>> round(float(effective_rank(jnp.eye(3))), 4)
    3.0
    """
    return _effective_rank(_singular_values("effective_rank", x))


def stable_rank(x: ArrayLike) -> Array:
    """``|X|_F^2 / |X|_2^2`` per matrix of ``[..., m, n]``: between 1 and the rank; 0 for a matrix of zeros.

    In float32 (float64 where x is).

    Raises:
        ValueError: where x is no array of matrices with entries.

    Source: Rudelson and Vershynin, Sampling from large matrices (J. ACM 54, 2007).

    >>> float(stable_rank(jnp.diag(jnp.array([2.0, 1.0]))))
    1.25
    """
    return _stable_rank(_singular_values("stable_rank", x))


def nuclear_norm(x: ArrayLike, *, schedule: str | Schedule | None = None) -> Array:
    """The sum of the singular values per matrix of ``[..., m, n]``, whose gradient is the polar factor ``U V^T``.

    Where singular values are 0 the gradient is the subgradient of least Frobenius norm, which leaves their vectors out;
    at a matrix of zeros it is 0.

    Args:
        x: any floating dtype.
        schedule: None decomposes x. A name of `SCHEDULES` or a `Schedule` takes ``P = orthogonalize(x)`` in float32 at
            least for the polar factor, without a decomposition: the norm is ``sum(x P)`` and its gradient P. Either is
            as good as the schedule: singular values far below the Frobenius norm count less.

    Returns:
        ``[...]``, in float32 (float64 where x is).

    Raises:
        ValueError: where x is no array of matrices with entries, or for an unknown schedule.

    Source: Watson, Characterization of the subdifferential of some matrix norms (Linear Algebra Appl. 170, 1992).

    >>> float(nuclear_norm(jnp.diag(jnp.array([3.0, -4.0]))))
    7.0
    """
    x = promote(_matrices("nuclear_norm", x))
    return _nuclear_norm(x, None if schedule is None else find_schedule("nuclear_norm", schedule))


def _value_and_factor(x: Array, schedule: Schedule | None) -> tuple[Array, Array]:
    if schedule is not None:
        factor = orthogonalize(x, schedule=schedule, dtype=x.dtype)
        return jnp.sum(x * factor, axis=(-2, -1)), factor
    u, sigma, vt = jnp.linalg.svd(x, full_matrices=False)
    floor = max(x.shape[-2:]) * jnp.finfo(x.dtype).eps * sigma[..., :1]
    kept = (sigma > floor).astype(x.dtype)
    return jnp.sum(sigma, axis=-1), jnp.matmul(u * kept[..., None, :], vt, precision="highest")


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _nuclear_norm(x: Array, schedule: Schedule | None) -> Array:
    return _value_and_factor(x, schedule)[0]


@_nuclear_norm.defjvp
def _nuclear_norm_jvp(schedule, primals, tangents):
    value, factor = _value_and_factor(primals[0], schedule)
    return value, jnp.sum(factor * tangents[0], axis=(-2, -1))


def _matrices(function: str, x: ArrayLike) -> Array:
    x = floating_array(function, "x", x)
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise fail(function, "x", f"has shape {x.shape}", "shape (..., m, n) with entries")
    return x


def _singular_values(function: str, x: ArrayLike) -> Array:
    """Descending, ``[..., min(m, n)]``."""
    return jnp.linalg.svd(promote(_matrices(function, x)), compute_uv=False)


def _effective_rank(sigma: Array) -> Array:
    total = jnp.sum(sigma, axis=-1, keepdims=True)
    p = sigma / jnp.where(total > 0.0, total, 1.0)
    entropy = -jnp.sum(p * jnp.log(jnp.where(p > 0.0, p, 1.0)), axis=-1)
    return jnp.where(total[..., 0] == 0.0, 0.0, jnp.exp(entropy))  # NaN stays NaN


def _stable_rank(sigma: Array) -> Array:
    top = sigma[..., :1]
    return jnp.sum(jnp.square(sigma / jnp.where(top > 0.0, top, 1.0)), axis=-1)
