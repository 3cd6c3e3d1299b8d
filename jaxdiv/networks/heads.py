"""Discriminator heads: from a network's features to one logit per example.

With real data labelled 1 and generated data 0 in equal numbers, the logit of a trained head estimates
log p_real(x) - log p_fake(x) at the example's noise level.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from jaxdiv.checks import check_shape, fail
from jaxdiv.networks.layers import Conv, Linear, fourier_features, statistics_dtype
from jaxdiv.networks.norm import GroupNorm
from jaxdiv.typing import Array

_NOISE_FEATURES = 32

Shape = Sequence[int]


def feature_shapes(features: Sequence[Array]) -> tuple[tuple[int, ...], ...]:
    """Shapes of feature arrays without the batch axis: what a head is built from.

    Works on arrays and on the abstract values of ``jax.eval_shape``, which computes nothing.
    """
    return tuple(tuple(f.shape[1:]) for f in features)


def _check_features(function: str, features: Sequence[Array], c_noise: Array, shapes: Sequence[Shape]) -> None:
    if len(features) != len(shapes):
        raise fail(function, "features", f"has {len(features)} arrays", f"{len(shapes)}, as the head was built")
    check_shape(function, "c_noise", c_noise, (None,))
    for i, (feature, shape) in enumerate(zip(features, shapes, strict=True)):
        check_shape(function, f"features[{i}]", feature, (c_noise.shape[0], *shape))


class MLPHead(nnx.Module):
    """A two-layer MLP on the concatenation of chosen feature vectors and the noise level.

    Args:
        shapes: shapes of the network's features without the batch axis, each ``(D,)``; see ``feature_shapes``.
        layers: indices of the features to use; None uses all.
        hidden: width of the hidden layer.
        rngs: parameter keys.

    Raises:
        ValueError: a chosen feature that is not a vector, or an index out of range.
    """

    def __init__(
        self, shapes: Sequence[Shape], *, layers: Sequence[int] | None = None, hidden: int = 128, rngs: nnx.Rngs
    ):
        self.shapes = tuple(tuple(s) for s in shapes)
        self.layers = tuple(range(len(shapes))) if layers is None else tuple(layers)
        width = _NOISE_FEATURES
        for i in self.layers:
            if not -len(shapes) <= i < len(shapes):
                raise fail("MLPHead", "layers", f"has index {i}", f"an index into {len(shapes)} features")
            if len(shapes[i]) != 1:
                raise fail("MLPHead", f"shapes[{i}]", f"is {tuple(shapes[i])}", "a vector (D,); maps need ConvHead")
            width += shapes[i][0]
        self.dense0 = Linear(width, hidden, rngs=rngs)
        self.dense1 = Linear(hidden, 1, init_scale=0.1, rngs=rngs)

    def __call__(self, features: Sequence[Array], c_noise: Array) -> Array:
        """Logits [B], float32 or wider, from the network's whole tuple of features and ``c_noise`` [B]."""
        _check_features("MLPHead", features, c_noise, self.shapes)
        dtype = statistics_dtype(features[0].dtype)
        inputs = [features[i].astype(dtype) for i in self.layers]
        inputs.append(fourier_features(c_noise.astype(dtype), _NOISE_FEATURES))
        return self.dense1(jax.nn.silu(self.dense0(jnp.concatenate(inputs, axis=-1))))[:, 0]


class _ScaleHead(nnx.Module):
    """One map to one logit: 4x4 stride-2 convolutions until a side is at most 4, one dense layer, the logit."""

    def __init__(self, shape: Shape, *, hidden: int, rngs: nnx.Rngs):
        height, width, channels = shape
        convs, norms = {}, {}
        while min(height, width) > 4:
            name = f"layer{len(convs)}"
            convs[name] = Conv(channels, hidden, kernel_size=4, stride=2, rngs=rngs)
            norms[name] = GroupNorm(hidden, rngs=rngs)
            height, width, channels = height // 2, width // 2, hidden
        self.convs, self.norms = nnx.Dict(convs), nnx.Dict(norms)
        self.noise = Linear(_NOISE_FEATURES, hidden, init_scale=0.1, rngs=rngs)
        self.dense = Linear(height * width * channels, hidden, rngs=rngs)
        self.norm = GroupNorm(hidden, rngs=rngs)
        self.logit = Linear(hidden, 1, init_scale=0.1, rngs=rngs)

    def __call__(self, x: Array, noise: Array) -> Array:
        for i in range(len(self.convs)):
            x = self.norms[f"layer{i}"].silu(self.convs[f"layer{i}"](x))
        y = self.dense(x.reshape(x.shape[0], -1)) + self.noise(noise.astype(x.dtype))
        y = self.norm.silu(y)
        return self.logit(y.astype(statistics_dtype(y.dtype)))[:, 0]


class ConvHead(nnx.Module):
    """Mean over feature maps of one convolutional logit each: log of the geometric mean of their density ratios.

    The layout of FastGen's CIFAR-10 discriminator (4x4 stride-2 convolutions with group normalization and SiLU, one
    logit per scale), shortened for small maps, plus the noise level at the last layer.

    Args:
        shapes: shapes of the network's features without the batch axis, each ``(H, W, C)``; see ``feature_shapes``.
        layers: indices of the features to use; None uses all.
        hidden: channels of every layer; None keeps each map's own number.
        rngs: parameter keys.

    Raises:
        ValueError: a chosen feature that is not a map, or an index out of range.
    """

    def __init__(
        self, shapes: Sequence[Shape], *, layers: Sequence[int] | None = None, hidden: int | None = None, rngs: nnx.Rngs
    ):
        self.shapes = tuple(tuple(s) for s in shapes)
        self.layers = tuple(range(len(shapes))) if layers is None else tuple(layers)
        heads = {}
        for i in self.layers:
            if not -len(shapes) <= i < len(shapes):
                raise fail("ConvHead", "layers", f"has index {i}", f"an index into {len(shapes)} features")
            if len(shapes[i]) != 3:
                raise fail("ConvHead", f"shapes[{i}]", f"is {tuple(shapes[i])}", "a map (H, W, C); vectors: MLPHead")
            heads[f"scale{i % len(shapes)}"] = _ScaleHead(shapes[i], hidden=hidden or shapes[i][-1], rngs=rngs)
        self.heads = nnx.Dict(heads)

    def __call__(self, features: Sequence[Array], c_noise: Array) -> Array:
        """Logits [B], float32 or wider, from the network's whole tuple of features and ``c_noise`` [B]."""
        _check_features("ConvHead", features, c_noise, self.shapes)
        noise = fourier_features(c_noise.astype(statistics_dtype(c_noise.dtype)), _NOISE_FEATURES)
        logits = [self.heads[f"scale{i % len(features)}"](features[i], noise) for i in self.layers]
        return jnp.stack(logits).mean(axis=0)
