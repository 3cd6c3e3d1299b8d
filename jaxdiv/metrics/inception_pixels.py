"""What happens to an image before FID's network sees it: 8 bits, TensorFlow 1's resize, and a scale.

Each is part of the measure. Other rounding, other interpolation or other scaling gives other distances.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np

from jaxdiv import checks
from jaxdiv.typing import Array, ArrayLike

SIDE = 299

Scaling = Literal["symmetric", "tensorflow"]


def to_uint8(images: ArrayLike) -> Array:
    """Pixels as an image file holds them: ``127.5 x + 127.5`` rounded (halves up) and clipped to 0 ... 255.

    Args:
        images: Any shape; floating in [-1, 1], or uint8, which is returned as it is. NaN becomes some number.

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: Another dtype.

    >>> to_uint8(jnp.array([-1.1, -1.0, 0.0, 1.0])).tolist()
    [0, 0, 128, 255]
    """
    array = checks.number_array("to_uint8", "images", images)
    if array.dtype == jnp.uint8:
        return array
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise checks.fail("to_uint8", "images", f"has dtype {array.dtype}", "uint8, or a floating dtype in [-1, 1]")
    wide = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    return jnp.clip(jnp.floor(wide * 127.5 + 128.0), 0.0, 255.0).astype(jnp.uint8)


def _axis(length: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left neighbour, right neighbour and the weight of the right one for each output pixel of a line."""
    source = np.arange(size) * (length / size)
    left = np.minimum(np.floor(source).astype(int), length - 1)
    return left, np.minimum(left + 1, length - 1), source - left


def resize_tf1(images: ArrayLike, size: int | tuple[int, int]) -> Array:
    """Bilinear resize as TensorFlow 1 did it: output pixel i lies at ``i * in / out`` of the input.

    Pixel centres are not aligned, so images shift by up to half a pixel, and shrinking does not average: both wrong,
    and both part of FID. The last input pixel continues beyond the edge.

    Args:
        images: ``[N, H, W, C]`` floating.
        size: Of the output, ``(height, width)`` or one number for both.

    Returns:
        ``[N, height, width, C]`` in the dtype of the images.

    Raises:
        ValueError: The shape or the dtype does not fit, or a size is no positive integer.

    >>> resize_tf1(jnp.array([0.0, 3.0]).reshape(1, 1, 2, 1), (1, 4)).ravel().tolist()
    [0.0, 1.5, 3.0, 3.0]

    Source: ``ResizeBilinear`` with ``align_corners=False`` and ``half_pixel_centers=False``.
    """
    x = checks.floating_array("resize_tf1", "images", images)
    checks.check_shape("resize_tf1", "images", x, (None, None, None, None))
    sizes = size if isinstance(size, tuple) else (size, size)
    checks.check_shape("resize_tf1", "size", sizes, (2,))
    for axis, length in ((2, sizes[1]), (1, sizes[0])):
        checks.check_integer("resize_tf1", "size", length, 1)
        checks.check_axis("resize_tf1", "images", axis, x.shape)
        left, right, weight = _axis(x.shape[axis], length)
        low, high = jnp.take(x, left, axis), jnp.take(x, right, axis)
        x = low + (high - low) * jnp.asarray(np.expand_dims(weight, tuple(range(1, 4 - axis))), x.dtype)
    return x


def inception_input(images: ArrayLike, *, scaling: Scaling = "tensorflow") -> Array:
    """Images as ``inception_features`` takes them: 8 bits, 299x299, scaled.

    Args:
        images: ``[N, H, W, 3]``, uint8, or floating in [-1, 1], which is rounded to 8 bits first.
        scaling: "tensorflow" is ``(x - 128) / 128``, as the network of 2015 has it in its graph; "symmetric" is
            ``2 x / 255 - 1``, as pytorch-fid has it. Reference statistics are comparable under
            the scaling that they were made with.

    Returns:
        ``[N, 299, 299, 3]`` float32.

    Raises:
        ValueError: The shape, the dtype or the scaling does not fit.
    """
    checks.check_choice("inception_input", "scaling", scaling, ("symmetric", "tensorflow"))
    checks.check_shape("inception_input", "images", images, (None, None, None, 3))
    x = resize_tf1(to_uint8(images).astype(jnp.float32), SIDE)
    return x * (2.0 / 255.0) - 1.0 if scaling == "symmetric" else (x - 128.0) / 128.0
