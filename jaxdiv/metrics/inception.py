"""The Inception-v3 network that FID is defined with, as a pure function: 299x299 images to 2048 features.

It is the variant in which TensorFlow published its weights in 2015. Against the network of the paper, average pools
divide by the number of pixels inside the image, and the last block pools by maximum instead of mean.

The network is data: blocks of branches of steps. The same table says which parameters there are and how they are used.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import checks
from jaxdiv.metrics.folded_conv import FoldedConv
from jaxdiv.typing import Array, ArrayLike

NUM_FEATURES = 2048
_MINIMUM_SIDE = 75  # below it nothing is left of the image for the last blocks


class Conv(NamedTuple):
    """A convolution with folded batch normalisation, then ReLU."""

    name: str
    width: int
    """Channels out."""
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True
    """Zeros on every side so that stride 1 keeps the image's size; else no padding."""


class Pool(NamedTuple):
    """Over 3x3 pixels: stride 1 keeps the image's size, stride 2 stays inside it."""

    kind: Literal["mean", "max"]
    stride: int = 1


Step = Conv | Pool | tuple[Conv, ...]
"""A tuple is convolutions side by side on one input, their outputs concatenated."""
Branches = tuple[tuple[Step, ...], ...]
"""Chains of steps side by side on one input, their outputs concatenated."""


InceptionParams = Mapping[str, FoldedConv]
"""By name of the convolution, such as ``Mixed_5b.branch1x1``."""


def _mixed_5(pool_width: int) -> Branches:
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))),
        (Pool("mean"), Conv("branch_pool", pool_width)),
    )


def _mixed_6(width: int) -> Branches:
    row, column = (1, 7), (7, 1)
    return (
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", width), Conv("branch7x7_2", width, row), Conv("branch7x7_3", 192, column)),
        (
            Conv("branch7x7dbl_1", width),
            Conv("branch7x7dbl_2", width, column),
            Conv("branch7x7dbl_3", width, row),
            Conv("branch7x7dbl_4", width, column),
            Conv("branch7x7dbl_5", 192, row),
        ),
        (Pool("mean"), Conv("branch_pool", 192)),
    )


def _mixed_7(pool: Literal["mean", "max"]) -> Branches:
    row, column = (1, 3), (3, 1)
    return (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), (Conv("branch3x3_2a", 384, row), Conv("branch3x3_2b", 384, column))),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            (Conv("branch3x3dbl_3a", 384, row), Conv("branch3x3dbl_3b", 384, column)),
        ),
        (Pool(pool), Conv("branch_pool", 192)),
    )


_STEM = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), stride=2, padded=False),
    Conv("Conv2d_2a_3x3", 32, (3, 3), padded=False),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    Pool("max", stride=2),
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), padded=False),
    Pool("max", stride=2),
)
_MIXED_6A = (
    (Conv("branch3x3", 384, (3, 3), stride=2, padded=False),),
    (
        Conv("branch3x3dbl_1", 64),
        Conv("branch3x3dbl_2", 96, (3, 3)),
        Conv("branch3x3dbl_3", 96, (3, 3), stride=2, padded=False),
    ),
    (Pool("max", stride=2),),
)
_MIXED_7A = (
    (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), stride=2, padded=False)),
    (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, (3, 3), stride=2, padded=False),
    ),
    (Pool("max", stride=2),),
)

BLOCKS: dict[str, Branches] = {
    "": (_STEM,),
    "Mixed_5b.": _mixed_5(32),
    "Mixed_5c.": _mixed_5(64),
    "Mixed_5d.": _mixed_5(64),
    "Mixed_6a.": _MIXED_6A,
    "Mixed_6b.": _mixed_6(128),
    "Mixed_6c.": _mixed_6(160),
    "Mixed_6d.": _mixed_6(160),
    "Mixed_6e.": _mixed_6(192),
    "Mixed_7a.": _MIXED_7A,
    "Mixed_7b.": _mixed_7("mean"),
    "Mixed_7c.": _mixed_7("max"),
}
"""The network by prefix of its parameters' names, in order."""


def _conv(params: FoldedConv, step: Conv, x: Array, precision: str) -> Array:
    # Padding is spelled out: "SAME" would put the odd pixel of a strided convolution elsewhere than the weights expect.
    padding = [(k // 2, k // 2) if step.padded else (0, 0) for k in step.size]
    strides = (step.stride, step.stride)
    numbers = ("NHWC", "HWIO", "NHWC")
    out = jax.lax.conv_general_dilated(
        x, params.kernel, strides, padding, dimension_numbers=numbers, precision=precision
    )
    return jax.nn.relu(out + params.bias)


def _inside(length: int) -> np.ndarray:
    """How many of each pixel and its two neighbours on a line lie inside it."""
    here = np.arange(length)
    return np.minimum(here + 1, length - 1) - np.maximum(here - 1, 0) + 1


def _pool(step: Pool, x: Array) -> Array:
    window, strides = (1, 3, 3, 1), (1, step.stride, step.stride, 1)
    side = (1, 1) if step.stride == 1 else (0, 0)
    padding = ((0, 0), side, side, (0, 0))
    if step.kind == "max":
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, window, strides, padding)
    counts = np.outer(_inside(x.shape[1]), _inside(x.shape[2]))[None, :, :, None]
    return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, strides, padding) / jnp.asarray(counts, x.dtype)


def apply_block(
    params: InceptionParams, prefix: str, branches: Branches, x: Array, *, precision: str = "highest"
) -> Array:
    """One block; widths are those of the parameters.

    Args:
        params: Has ``prefix + name`` for each `Conv` of the branches.
        prefix: Of the parameters' names.
        branches: What to compute.
        x: ``[N, H, W, C]``.
        precision: Of the products, as ``jax.lax`` names it.

    Returns:
        The branches' outputs, concatenated: ``[N, H', W', C']``.
    """

    def run(step: Step, x: Array) -> Array:
        if isinstance(step, Conv):
            return _conv(params[prefix + step.name], step, x, precision)
        if isinstance(step, Pool):
            return _pool(step, x)
        return jnp.concatenate([run(part, x) for part in step], -1)

    outputs = []
    for branch in branches:
        y = x
        for step in branch:
            y = run(step, y)
        outputs.append(y)
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, -1)


def inception_features(params: InceptionParams, images: ArrayLike, *, precision: str = "highest") -> Array:
    """The 2048 pooled features of each image that FID compares.

    Pure and un-jitted, 5.7 GMAC an image. It computes in the dtype of the parameters. Images come resized and scaled
    as ``inception_input`` leaves them; 8-bit ones go through ``inception_statistics``.

    Args:
        params: From ``load_inception``.
        images: ``[N, 299, 299, 3]`` floating, RGB in about [-1, 1]; other sides from 75 on work, but are not FID's.
        precision: Of the products; "highest" is full float32 on every device.

    Returns:
        ``[N, 2048]``, the mean over positions of the last block.

    Raises:
        ValueError: The shape or the dtype does not fit.

    Source: Szegedy et al., "Rethinking the Inception architecture for computer vision", arXiv 1512.00567, changed as
    the module says; Heusel et al., "GANs trained by a two time-scale update rule", arXiv 1706.08500.
    """
    function = "inception_features"
    x = checks.floating_array(function, "images", images)
    checks.check_shape(function, "images", x, (None, None, None, 3))
    if min(x.shape[1:3]) < _MINIMUM_SIDE:
        raise checks.fail(
            function, "images", f"has shape {x.shape}", f"images of at least {_MINIMUM_SIDE} pixels a side"
        )
    x = x.astype(next(iter(params.values())).kernel.dtype)
    for prefix, branches in BLOCKS.items():
        x = apply_block(params, prefix, branches, x, precision=precision)
    return x.mean((1, 2))
