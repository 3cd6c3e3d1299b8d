"""MobileNetV2 for ImageNet with public weights: features of small images in a space that CIFAR labels did not shape.

The weights are an ``.npz`` with batch normalisation folded in, convolutions ``[H, W, C_in, C_out]`` and depthwise ones
``[3, 3, C, 1]`` (``Conv.kernel``, ``expanded_conv_3.depthwise.bias``, ...; the first block has no ``expand``). Widths
are found from the shapes; the 17 blocks and their strides are fixed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import checks
from jaxdiv.metrics.pixels import float_pixels
from jaxdiv.networks.state_dicts import read_state_dict
from jaxdiv.typing import Array, ArrayLike

_SIDE = 224
_NUM_BLOCKS = 17
_HALVING_BLOCKS = (1, 3, 6, 13)


class Layer(NamedTuple):
    """A convolution or a linear map."""

    kernel: Array
    """``[3, 3, C_in, C_out]``; ``[3, 3, C]`` where depthwise; ``[C_in, C_out]`` where it mixes channels only."""
    bias: Array
    """``[C_out]``."""


class Bottleneck(NamedTuple):
    """An inverted residual block: widen, filter each channel by itself, narrow without a nonlinearity."""

    expand: Layer | None
    """``C -> 6 C``; the first block has none."""
    depthwise: Layer
    project: Layer


class MobileNetV2(NamedTuple):
    """Weights of the network, a pytree of float32 arrays."""

    stem: Layer
    blocks: tuple[Bottleneck, ...]
    last: Layer
    """To the pooled width, 1280."""
    logits: Layer
    """To 1001 classes."""


def load_mobilenet_v2(path: str | Path) -> MobileNetV2:
    """Read the weights.

    Args:
        path: An ``.npz`` as the module describes it. ``read_state_dict`` reads it: pickles are refused.

    Raises:
        ValueError: There is no such file, it cannot be read, or parameters are missing, left over or of another shape.
    """
    return mobilenet_v2_of_arrays(read_state_dict(path))


def mobilenet_v2_of_arrays(arrays: Mapping[str, np.ndarray]) -> MobileNetV2:
    """What :func:`load_mobilenet_v2` does, from arrays by name."""
    function, left = "load_mobilenet_v2", dict(arrays)

    def take(name: str, *shape: int | None) -> Layer:
        for part in ("kernel", "bias"):
            if f"{name}.{part}" not in left:
                raise checks.fail(function, "path", f"has no {name}.{part}", "all parameters of a MobileNetV2")
        kernel, bias = left.pop(f"{name}.kernel"), left.pop(f"{name}.bias")
        checks.check_shape(function, f"{name}.kernel", kernel, shape)
        depthwise = shape[-1] == 1
        checks.check_shape(function, f"{name}.bias", bias, kernel.shape[2:3] if depthwise else kernel.shape[3:])
        if depthwise:
            kernel = kernel[..., 0]
        elif shape[0] == 1:
            kernel = kernel[0, 0]
        return Layer(jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32))

    stem = take("Conv", 3, 3, 3, None)
    width, blocks = stem.bias.shape[0], []
    for index in range(_NUM_BLOCKS):
        name = f"expanded_conv_{index}" if index else "expanded_conv"
        expand = take(f"{name}.expand", 1, 1, width, None) if index else None
        inner = expand.bias.shape[0] if expand else width
        project = take(f"{name}.project", 1, 1, inner, None)
        blocks.append(Bottleneck(expand, take(f"{name}.depthwise", 3, 3, inner, 1), project))
        width = project.bias.shape[0]
    last = take("Conv_1", 1, 1, width, None)
    logits = take("Logits.Conv2d_1c_1x1", 1, 1, last.bias.shape[0], None)
    if left:
        raise checks.fail(function, "path", f"also has {sorted(left)[:3]}", "the parameters of a MobileNetV2 only")
    return MobileNetV2(stem, tuple(blocks), last, logits)


def _same(side: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME padding for 3 pixels: what is odd goes after, so stride 2 on an even side pads at the end."""
    total = max(0, (-(-side // stride) - 1) * stride + 3 - side)
    return total // 2, total - total // 2


def _depthwise(x: Array, layer: Layer, stride: int) -> Array:
    """Each channel by its own 3x3 kernel, as a sum of nine shifted and scaled copies.

    XLA fuses the nine into one pass over the image on every device, in float32; grouped convolutions are many times
    slower on CPUs and may round their inputs on accelerators.
    """
    sides = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), _same(sides[0], stride), _same(sides[1], stride), (0, 0)))
    rows, columns = (-(-side // stride) for side in sides)

    def tap(i: int, j: int) -> Array:
        i_end, j_end = i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1
        return padded[:, i:i_end:stride, j:j_end:stride] * layer.kernel[i, j]

    return sum((tap(i, j) for i in range(3) for j in range(3)), start=layer.bias)


def _mix(x: Array, layer: Layer) -> Array:
    return jnp.matmul(x, layer.kernel, precision="highest") + layer.bias


def _block(x: Array, block: Bottleneck, stride: int) -> Array:
    inner = x if block.expand is None else jax.nn.relu6(_mix(x, block.expand))
    out = _mix(jax.nn.relu6(_depthwise(inner, block.depthwise, stride)), block.project)
    return x + out if stride == 1 and x.shape == out.shape else out


def mobilenet_v2_features(params: MobileNetV2, images: ArrayLike) -> tuple[Array, Array]:
    """Pooled features and ImageNet logits of images, which are first resized to 224 x 224.

    The resize is bilinear with pixel centres at half-integers and no antialiasing, edge pixels held: what
    ``jax.image.resize(..., "bilinear")`` does when it enlarges. Resized pixels are not rounded. This choice is part of
    the feature space and stays as it is. Pixels then become ``x / 128 - 1``. Products are in full float32 on every
    device. Pure and un-jitted; 0.30 GMAC an image, whose largest activation has 1.2 million numbers.

    Args:
        params: From :func:`load_mobilenet_v2`.
        images: ``[N, H, W, 3]`` RGB in [0, 255], uint8 or floating, at most 224 on a side.

    Returns:
        Features ``[N, 1280]``, the mean over positions of the last convolution after ReLU6, and logits ``[N, 1001]``
        (0 is background), both float32.

    Raises:
        ValueError: The shape or the dtype does not fit.

    Source: Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", arXiv 1801.04381, table 2.
    """
    x = float_pixels("mobilenet_v2_features", images)
    if not 1 <= min(x.shape[1:3]) <= max(x.shape[1:3]) <= _SIDE:
        raise checks.fail("mobilenet_v2_features", "images", f"has shape {x.shape}", "sides from 1 to 224")
    x = jax.image.resize(x, (x.shape[0], _SIDE, _SIDE, 3), "bilinear", precision=jax.lax.Precision.HIGHEST)
    x = x / 128.0 - 1.0
    x = jax.lax.conv_general_dilated(
        x,
        params.stem.kernel,
        (2, 2),
        (_same(_SIDE, 2), _same(_SIDE, 2)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    x = jax.nn.relu6(x + params.stem.bias)
    for index, block in enumerate(params.blocks):
        x = _block(x, block, 2 if index in _HALVING_BLOCKS else 1)
    features = jax.nn.relu6(_mix(x, params.last)).mean((1, 2))
    return features, _mix(features, params.logits)
