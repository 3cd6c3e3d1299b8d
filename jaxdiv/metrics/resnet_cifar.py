"""The CIFAR-10 residual networks of depth 6n + 2, with public weights: features, and a classifier, at 32x32 pixels.

Weights are an ``.npz`` with the parameter names of the PyTorch network (``conv1.weight``, ``layer1.0.bn1.bias``, ...),
as the Python package akamaster/pytorch_resnet_cifar10 trains them. Batch normalisation is folded into the
convolutions when they are loaded, so that the network is convolutions, sums and ReLUs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import checks
from jaxdiv.metrics.folded_conv import FoldedConv, fold_batch_norm
from jaxdiv.metrics.pixels import float_pixels
from jaxdiv.networks.state_dicts import read_state_dict
from jaxdiv.typing import Array, ArrayLike

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_BN_EPS = 1e-5
_STAGES = (1, 2, 3)


class ResNetCifar(NamedTuple):
    """Weights of one network; a pytree whose structure holds the depth."""

    stem: FoldedConv
    """3 to 16 channels."""
    stages: tuple[tuple[tuple[FoldedConv, FoldedConv], ...], ...]
    """Three stages of n blocks of two convolutions; 16, 32 and 64 channels."""
    head_kernel: Array
    """``[64, 10]``."""
    head_bias: Array
    """``[10]``."""

    @property
    def depth(self) -> int:
        """6n + 2 for n blocks a stage."""
        return 2 * sum(len(blocks) for blocks in self.stages) + 2


def load_resnet_cifar(path: str | Path) -> ResNetCifar:
    """Read the weights and fold each batch normalisation into the convolution before it.

    The fold is ``kernel * s`` and ``beta - mean * s`` with ``s = gamma / sqrt(var + 1e-5)``, computed in float64.

    Args:
        path: An ``.npz`` with the PyTorch network's names, convolutions ``[C_out, C_in, 3, 3]``.
            ``read_state_dict`` reads it, so other types will do, and pickles are refused.

    Returns:
        A :class:`ResNetCifar` in float32; its depth is found from the names.

    Raises:
        ValueError: There is no such file, it cannot be read, or parameters are missing, left over or of another shape.
    """
    return fold_resnet_cifar(read_state_dict(path))


def fold_resnet_cifar(arrays: Mapping[str, np.ndarray]) -> ResNetCifar:
    """What :func:`load_resnet_cifar` does, from arrays by PyTorch name; ``num_batches_tracked`` entries are dropped."""
    function = "load_resnet_cifar"
    left = {name: value for name, value in arrays.items() if not name.endswith("num_batches_tracked")}

    def take(name: str, *shape: int | None) -> np.ndarray:
        if name not in left:
            raise checks.fail(function, "path", f"has no {name}", "all parameters of a CIFAR ResNet of depth 6n + 2")
        value = left.pop(name)
        checks.check_shape(function, name, value, shape)
        return np.asarray(value, np.float64)

    def folded(conv: str, norm: str, c_in: int | None, c_out: int | None) -> FoldedConv:
        kernel = take(f"{conv}.weight", c_out, c_in, 3, 3)
        c_out = kernel.shape[0]
        parts = (take(f"{norm}.{part}", c_out) for part in ("weight", "bias", "running_mean", "running_var"))
        return fold_batch_norm(kernel, *parts, eps=_BN_EPS, dtype=jnp.float32)

    stem = folded("conv1", "bn1", 3, None)
    width = stem.bias.shape[0]
    stages = []
    for stage in _STAGES:
        blocks = []
        while (prefix := f"layer{stage}.{len(blocks)}") + ".conv1.weight" in left:
            # The first block of the later two stages halves the image and doubles the channels.
            c_out = width if blocks or stage == 1 else 2 * width
            blocks.append(
                (
                    folded(f"{prefix}.conv1", f"{prefix}.bn1", width, c_out),
                    folded(f"{prefix}.conv2", f"{prefix}.bn2", c_out, c_out),
                )
            )
            width = c_out
        stages.append(tuple(blocks))
    if len({len(blocks) for blocks in stages}) != 1 or not stages[0]:
        got = f"has {[len(blocks) for blocks in stages]} blocks in its stages"
        raise checks.fail(function, "path", got, "three stages of equally many, at least one")
    kernel, bias = take("linear.weight", None, width).T, take("linear.bias", None)
    checks.check_shape(function, "linear.bias", bias, kernel.shape[1:])
    if left:
        raise checks.fail(function, "path", f"also has {sorted(left)[:3]}", "the parameters of a CIFAR ResNet only")
    return ResNetCifar(stem, tuple(stages), jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32))


def _conv(x: Array, layer: FoldedConv, stride: int = 1) -> Array:
    # One pixel of zeros on every side at either stride, as PyTorch pads. "SAME" would shift the strided ones.
    out = jax.lax.conv_general_dilated(
        x,
        layer.kernel,
        (stride, stride),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
    return out + layer.bias


def _block(x: Array, layers: tuple[FoldedConv, FoldedConv]) -> Array:
    stride = layers[0].bias.shape[0] // x.shape[-1]
    out = _conv(jax.nn.relu(_conv(x, layers[0], stride)), layers[1])
    if stride == 2:
        # The shortcut without parameters: every other pixel, and zeros for the new channels, half on either side.
        side = layers[0].bias.shape[0] // 4
        x = jnp.pad(x[:, ::2, ::2], ((0, 0), (0, 0), (0, 0), (side, side)))
    return jax.nn.relu(out + x)


def resnet_cifar_features(params: ResNetCifar, images: ArrayLike) -> tuple[Array, Array]:
    """Pooled features and class logits of images.

    Pixels become ``(x / 255 - mean) / std`` with the ImageNet statistics. Products are in full float32 on every
    device. Pure and un-jitted; 0.125 GMAC an image at depth 56, 0.041 at depth 20.

    Args:
        params: From :func:`load_resnet_cifar`.
        images: ``[N, H, W, 3]`` RGB in [0, 255], uint8 or floating. The public weights are for H = W = 32.

    Returns:
        Features ``[N, 64]``, the mean over positions before the last layer, and logits ``[N, 10]``, both float32.

    Raises:
        ValueError: The shape or the dtype does not fit.

    Source: He et al., "Deep residual learning for image recognition", arXiv 1512.03385, section 4.2.
    """
    x = float_pixels("resnet_cifar_features", images) / 255.0
    x = (x - jnp.array(_MEAN, x.dtype)) / jnp.array(_STD, x.dtype)
    x = jax.nn.relu(_conv(x, params.stem))
    for blocks in params.stages:
        for layers in blocks:
            x = _block(x, layers)
    features = x.mean((1, 2))
    return features, jnp.matmul(features, params.head_kernel, precision="highest") + params.head_bias
