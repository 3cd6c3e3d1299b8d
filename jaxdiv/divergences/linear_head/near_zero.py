"""Functions of s <= 0 that vanish at 0, to their own rounding: polynomials near 0, where formulas would cancel.

A GPU evaluates eight multiply-adds faster than the expm1 and log1p that would do the same.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

START = -1.0
"""The polynomials hold from here to 0."""


@functools.lru_cache
def coefficients(fn: Callable[..., np.ndarray], arguments: tuple[float, ...], order: int, degree: int) -> tuple:
    """Of the polynomial in t = 2 s + 1 that interpolates fn(s, *arguments) / s^order at Chebyshev points.

    >>> table = coefficients(lambda s: s + s**2, (), 1, 2)  # 1 + s = 0.5 + 0.5 t
    >>> [round(c, 12) + 0.0 for c in table]
    [0.5, 0.5, 0.0]
    """
    t = chebyshev.chebpts1(degree + 1)
    s = (t - 1.0) / 2.0
    table = chebyshev.cheb2poly(chebyshev.chebfit(t, fn(s, *arguments) / s**order, degree))
    # numpy drops leading coefficients that are exactly zero.
    return tuple(float(c) for c in np.pad(table, (0, degree + 1 - len(table))))


def near_zero(
    fn: Callable[..., np.ndarray], order: int, s: jax.Array, above: Any, high: tuple[float, ...], low: tuple[float, ...]
) -> jax.Array:
    """fn(s, *high) where ``above`` and fn(s, *low) elsewhere, for s in [START, 0] (whatever is below START is wrong).

    Args:
        fn: a numpy function that vanishes at 0 like s^order, analytic within 3 of [START, 0].
        order: 1 or 2.
        s: float32 or float64, at most 0.
        above: boolean array.
        high: arguments of fn where ``above``.
        low: arguments elsewhere.
    """
    degree = 17 if s.dtype == jnp.float64 else 7
    tables = coefficients(fn, high, order, degree), coefficients(fn, low, order, degree)
    s = jnp.maximum(s, START)
    t = 2.0 * s + 1.0
    total: Any = 0.0
    for a, b in zip(*map(reversed, tables), strict=True):
        total = total * t + (a if a == b else jnp.where(above, a, b))
    return total * (s if order == 1 else s * s)
