"""Argument checks that the estimators share: paired samples, labels, counts, positive numbers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_floating, check_real, check_shape, fail, floating_array, integer_array
from jaxdiv.numerics import promote
from jaxdiv.typing import Array


def paired_samples(function: str, **arrays: Any) -> tuple[Array, ...]:
    """Floating arrays ``[N, d]`` (``[N]`` becomes ``[N, 1]``) of equal N >= 1, float32 at least, of one dtype.

    >>> [array.shape for array in paired_samples("f", x=jnp.zeros(3), y=jnp.zeros((3, 2)))]
    [(3, 1), (3, 2)]
    """
    found: list[Array] = []
    first = next(iter(arrays))
    for name, value in arrays.items():
        array = promote(floating_array(function, name, value))
        if array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2 or 0 in array.shape:
            raise fail(function, name, f"has shape {jnp.shape(value)}", "shape [N, d] or [N] with entries")
        if found and array.shape[0] != found[0].shape[0]:
            raise fail(function, name, f"has {array.shape[0]} rows", f"the {found[0].shape[0]} rows of {first}")
        found.append(array)
    dtype = jnp.result_type(*found)
    return tuple(array.astype(dtype) for array in found)


def label_array(function: str, argument: str, value: Any, count: int) -> Array:
    """Integer labels ``[N]``, one per sample.

    >>> label_array("f", "labels", [0, 1], 2).shape
    (2,)
    """
    labels = integer_array(function, argument, value)
    check_shape(function, argument, labels, (count,))
    return labels


def check_rows(function: str, argument: str, samples: Array, least: int) -> None:
    """At least so many samples: what one alone says about dependence is nothing.

    >>> check_rows("f", "x", jnp.ones((2, 1)), 2)
    """
    if samples.shape[0] < least:
        raise fail(function, argument, f"has {samples.shape[0]} rows", f"at least {least}")


def check_positive(function: str, argument: str, value: Any) -> None:
    """A positive Python number, or a scalar floating array, maybe traced, whose value is not looked at.

    >>> check_positive("f", "sigma", 0.5)
    """
    if isinstance(value, jax.Array | np.ndarray):
        check_shape(function, argument, value, ())
        check_floating(function, **{argument: value})
    else:
        check_real(function, argument, value, 0.0, math.inf, open_low=True, open_high=True)


def check_variance(function: str, variance: Any, width: int) -> None:
    """A positive number, or a floating array of shape () or ``[width]``, whose values are not looked at.

    >>> check_variance("f", jnp.ones(2), 2)
    """
    if isinstance(variance, jax.Array | np.ndarray) and variance.ndim:
        check_shape(function, "variance", variance, (width,))
        check_floating(function, variance=variance)
    else:
        check_positive(function, "variance", variance)
