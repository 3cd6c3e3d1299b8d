"""What every two-sample statistic asks of its arguments: sample matrices of one width, counts, choices."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_choice, check_instance, check_integer, fail, floating_array
from jaxdiv.numerics import promote

CHUNK_SIZE = 1024
"""Rows of a pair matrix that exist at once, unless the caller says otherwise."""


def sample_matrices(function: str, *, min_rows: int = 1, **arrays: Any) -> tuple[jax.Array, ...]:
    """The arguments as matrices [n, d] with one d >= 1 and min_rows or more rows, in one dtype: float32 or float64.

    >>> [a.shape for a in sample_matrices("f", p_samples=jnp.ones((3, 2)), q_samples=jnp.ones((5, 2)))]
    [(3, 2), (5, 2)]
    """
    out = []
    for name, value in arrays.items():
        array = floating_array(function, name, value)
        if array.ndim != 2 or array.shape[0] < min_rows or array.shape[1] < 1:
            raise fail(function, name, f"has shape {array.shape}", f"shape (n, d) with n >= {min_rows} and d >= 1")
        out.append(promote(array))
    first = next(iter(arrays))
    for name, array in zip(arrays, out, strict=True):
        if array.shape[1] != out[0].shape[1]:
            raise fail(function, name, f"has shape {array.shape}", f"rows of {first}'s length {out[0].shape[1]}")
    dtype = jnp.result_type(*out)
    return tuple(array.astype(dtype) for array in out)


def check_option(function: str, argument: str, value: Any, choices: tuple[str, ...]) -> None:
    """The value is one of a few words; anything but a string is refused before it is compared.

    >>> check_option("f", "estimator", "biased", ("biased", "unbiased"))
    """
    check_instance(function, argument, value, str)
    check_choice(function, argument, value, choices)


def check_chunk(function: str, chunk_size: Any) -> None:
    """The number of rows per block is a positive integer.

    >>> check_chunk("f", 64)
    """
    check_integer(function, "chunk_size", chunk_size, 1)
