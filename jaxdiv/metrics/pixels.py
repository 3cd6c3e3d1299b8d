"""The pixels that pretrained networks take: RGB in [0, 255]."""

import jax.numpy as jnp

from jaxdiv import checks
from jaxdiv.typing import Array, ArrayLike


def float_pixels(function: str, images: ArrayLike) -> Array:
    """Images ``[N, H, W, 3]``, uint8 or floating, as float32 of the same values, or ``ValueError``.

    Other integers are refused: they are more often a mistake than pixels.

    >>> float_pixels("f", jnp.full((1, 2, 2, 3), 255, jnp.uint8)).max().item()
    255.0
    """
    array = checks.number_array(function, "images", images)
    checks.check_shape(function, "images", array, (None, None, None, 3))
    if array.dtype != jnp.uint8 and not jnp.issubdtype(array.dtype, jnp.floating):
        raise checks.fail(function, "images", f"has dtype {array.dtype}", "uint8 or a floating dtype, in [0, 255]")
    return array.astype(jnp.float32)
