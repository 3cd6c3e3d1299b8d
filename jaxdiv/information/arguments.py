"""Argument checks that the estimators share: paired samples, labels, keys."""

from typing import Any

import jax.numpy as jnp

from jaxdiv.checks import check_shape, fail, floating_array, integer_array
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
