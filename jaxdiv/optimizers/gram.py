"""The Newton-Schulz iteration on the Gram matrix: the long side enters three products in all, not two for each step."""

import jax.numpy as jnp

from jaxdiv.checks import fail
from jaxdiv.numerics import promote
from jaxdiv.optimizers.schedules import SCHEDULES, Schedule
from jaxdiv.optimizers.symmetric import Kernels, gram_product, multiply, symmetric_polynomial, symmetric_product
from jaxdiv.typing import Array

_RESTART = 2  # steps before X is formed once and its Gram matrix anew, which takes up the rounding so far
_LEAST_RATIO = 1.5  # of the sides, where both forms cost the same


def gram_form_fits(shape: tuple[int, ...], dtype: jnp.dtype, schedule: Schedule) -> bool:
    """Whether the Gram form is cheaper than the standard one, and as accurate, for matrices of this shape."""
    short, long = sorted(shape[-2:])
    return long > _LEAST_RATIO * short and _is_accurate(dtype, schedule)


def _is_accurate(dtype: jnp.dtype, schedule: Schedule) -> bool:
    """Rounding of the Gram matrix is not corrected by X itself.

    In bfloat16 singular values reach 10 (square, Gaussian); in float16 1.58 by Polar Express, which is steeper than
    "you" (256 by 1024, log-uniform spectrum), where "you" stays at 1.15.
    """
    if dtype == jnp.float16:
        return schedule.coefficients == SCHEDULES["you"].coefficients
    return dtype != jnp.bfloat16


def check_gram_form(function: str, shape: tuple[int, ...], dtype: jnp.dtype, schedule: Schedule) -> None:
    """Raises where the Gram form is not to be trusted, or costs more."""
    if not _is_accurate(dtype, schedule):
        expected = "float32, float64, or float16 with the schedule 'you', for method='gram'"
        raise fail(function, "dtype", f"is {dtype} with the schedule {schedule.name!r}", expected)
    if not gram_form_fits(shape, dtype, schedule):
        expected = f"one side more than {_LEAST_RATIO} times the other with method='gram'"
        raise fail(function, "x", f"has shape {shape}", expected)


def gram_steps(x: Array, schedule: Schedule, kernels: Kernels) -> Array:
    """The steps of ``X <- a X + (b A + c A^2) X``, ``A = X X^T``, with X formed after two steps and at the end.

    Every iterate is a polynomial of the first Gram matrix R times X, so that Q with ``X_t = Q X`` and ``R_t = Q R Q``
    are symmetric and commute: ``Z = b R + c R^2``, ``Q <- Q Z + a Q``, ``R <- (Z + a) R (Z + a)``.

    Args:
        x: ``[..., n, m]``, scaled, n the short side.
        schedule: its coefficients, and whether the first Gram matrix is rescaled.
        kernels: of the products, all but two of which have symmetric results.
    """
    q = r = x  # until the first step sets them
    for step, (a, b, c) in enumerate(schedule.coefficients):
        starts = step in (0, _RESTART)
        if starts:
            x = x if step == 0 else multiply(q, x)
            r = gram_product(x, kernels=kernels)
            if step == 0 and schedule.rescale == "aol":
                x, r = almost_orthogonal(x, r)
        z = symmetric_polynomial(r, b=b, c=c, kernels=kernels)
        if starts:
            q = (promote(z) + a * jnp.eye(z.shape[-1])).astype(z.dtype)
        else:
            q = symmetric_product(q, z, beta=a, addend=q, kernels=kernels)
        if step + 1 not in (_RESTART, len(schedule.coefficients)):
            rz = symmetric_product(r, z, beta=a, addend=r, kernels=kernels)
            r = symmetric_product(z, rz, beta=a, addend=rz, kernels=kernels)
    return multiply(q, x)


def almost_orthogonal(x: Array, gram: Array) -> tuple[Array, Array]:
    """diag(s) x and its Gram matrix diag(s) A diag(s) for s_i = (sum_j |A_ij|)^(-1/2), without another product.

    Source: Prach and Lampert, Almost-orthogonal layers for efficient general-purpose Lipschitz networks (2022).
    """
    sums = jnp.sum(jnp.abs(promote(gram)), axis=-1)
    s = jnp.where(sums > 0.0, 1.0 / jnp.sqrt(jnp.where(sums > 0.0, sums, 1.0)), 0.0)
    scaled = promote(gram) * s[..., :, None] * s[..., None, :]
    return (promote(x) * s[..., :, None]).astype(x.dtype), scaled.astype(x.dtype)
