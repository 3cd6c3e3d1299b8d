"""Numbers per example against arrays of examples: dtype and shape, decided once for the whole area."""

import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_floating, fail
from jaxdiv.typing import Array, ArrayLike


def compute_dtype(*arrays: ArrayLike) -> jnp.dtype:
    """The dtype noise arithmetic is done in: float32, or float64 when an argument is float64.

    >>> compute_dtype(jnp.zeros(2, jnp.bfloat16)).name
    'float32'
    """
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def per_example(function: str, argument: str, value: ArrayLike, x: ArrayLike) -> Array:
    """Reshapes one number per example so that it multiplies ``x``: ``[B]`` becomes ``[B, 1, ..., 1]``.

    The value's shape has to be the leading part of ``x``'s. A scalar (one number for all of ``x``) is such a part: it
    is what a function of one example sees under ``vmap``.

    Args:
        function: name of the calling function, for the error.
        argument: name of its argument, for the error.
        value: ``[B]`` (or any leading part of ``x``'s shape), floating.
        x: ``[B, ...]``.

    Returns:
        ``[B, 1, ..., 1]`` with ``x``'s rank, in the dtype of ``value``.

    Raises:
        ValueError: if the shapes do not fit or ``value`` is not floating.

    >>> per_example("f", "sigma", jnp.ones(3), jnp.ones((3, 8, 8, 1))).shape
    (3, 1, 1, 1)
    """
    check_floating(function, **{argument: value})
    shape, x_shape = np.shape(value), np.shape(x)
    if shape != x_shape[: len(shape)]:
        raise fail(function, argument, f"has shape {shape}", f"the leading part of the data's shape {x_shape}")
    return jnp.reshape(value, shape + (1,) * (len(x_shape) - len(shape)))
