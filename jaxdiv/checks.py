"""Argument checks. Each raises ``ValueError`` that names the function, the argument, what came and what was expected.

They look at shapes, dtypes and Python values, never at traced numbers, so they cost nothing under ``jit``.
"""

from collections.abc import Collection, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np


def fail(function: str, argument: str, got: object, expected: str) -> ValueError:
    """The one wording of every argument error; the caller raises what this returns.

    >>> fail("heun_sample", "num_steps", "is 0", "at least 1")
    ValueError('heun_sample: num_steps is 0; expected at least 1')
    """
    return ValueError(f"{function}: {argument} {got}; expected {expected}")


def check_floating(function: str, **arrays: Any) -> None:
    """Every argument has a real floating dtype (bfloat16 and float16 included)."""
    for name, value in arrays.items():
        dtype = jnp.result_type(value)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise fail(function, name, f"has dtype {dtype}", "a floating dtype")


def check_shape(function: str, argument: str, value: Any, expected: Sequence[int | None]) -> None:
    """The shape equals ``expected``, where ``None`` stands for any size."""
    shape = np.shape(value)
    same_rank = len(shape) == len(expected)
    if not same_rank or any(e is not None and s != e for s, e in zip(shape, expected, strict=False)):
        wanted = ", ".join("any" if e is None else str(e) for e in expected)
        raise fail(function, argument, f"has shape {shape}", f"shape ({wanted})")


def check_same_shape(function: str, **arrays: Any) -> None:
    """All arguments have the shape of the first: nothing broadcasts by accident."""
    names = list(arrays)
    first = np.shape(arrays[names[0]])
    for name in names[1:]:
        if np.shape(arrays[name]) != first:
            raise fail(function, name, f"has shape {np.shape(arrays[name])}", f"{names[0]}'s shape {first}")


def check_batch(function: str, argument: str, value: Any, batch: int) -> None:
    """The argument is one number per example: shape ``(batch,)``."""
    check_shape(function, argument, value, (batch,))


def check_choice(function: str, argument: str, value: Any, choices: Collection[Any]) -> None:
    """The value is one of ``choices``."""
    if value not in choices:
        raise fail(function, argument, f"is {value!r}", "one of " + ", ".join(repr(c) for c in choices))


def check_range(
    function: str,
    argument: str,
    value: float,
    low: float = -np.inf,
    high: float = np.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """A Python number lies in an interval, closed unless said otherwise; NaN lies in none."""
    above = value > low if open_low else value >= low
    below = value < high if open_high else value <= high
    if not (above and below):
        left = "(" if open_low or low == -np.inf else "["
        right = ")" if open_high or high == np.inf else "]"
        raise fail(function, argument, f"is {value}", f"a number in {left}{low}, {high}{right}")
