"""Small layers that the networks share. Each computes in the dtype of its input and keeps float32 parameters."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiv.checks import check_shape, fail
from jaxdiv.typing import Array, PRNGKey


def default_compute_dtype() -> jnp.dtype:
    """bfloat16 on an accelerator, float32 on a CPU, where bfloat16 convolutions are tens of times slower.

    Asked when a network is called, never at import.
    """
    return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)


def statistics_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of sums, norms and softmax: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def xavier_uniform(key: PRNGKey, shape: Sequence[int], scale: float = 1.0) -> Array:
    """Uniform on ``scale * sqrt(6 / (fan_in + fan_out)) * [-1, 1]``; the last two axes of ``shape`` are in and out."""
    receptive_field = int(np.prod(shape[:-2]))
    limit = scale * np.sqrt(6 / (receptive_field * (shape[-2] + shape[-1])))
    # A program that draws takes a third of a second to compile, and a U-Net has tens of shapes: drawn is the next power
    # of two, whose first values are the same whatever the shape.
    size = int(np.prod(shape))
    values = jax.random.uniform(key, (1 << (size - 1).bit_length(),), jnp.float32, -limit, limit)
    return values[:size].reshape(shape)


class Linear(nnx.Module):
    """``x @ kernel + bias`` over the last axis: on images a 1x1 convolution, as a matrix product."""

    def __init__(self, num_in: int, num_out: int, *, init_scale: float = 1.0, use_bias: bool = True, rngs: nnx.Rngs):
        self.kernel = nnx.Param(xavier_uniform(rngs.params(), (num_in, num_out), init_scale))
        self.bias = nnx.Param(jnp.zeros(num_out)) if use_bias else None

    def without_bias(self, x: Array) -> Array:
        """The product alone, for a caller that adds the bias together with something else."""
        return x @ self.kernel[...].astype(x.dtype)

    def __call__(self, x: Array) -> Array:
        """``x`` [..., num_in] to [..., num_out]."""
        y = self.without_bias(x)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Conv(nnx.Module):
    """Convolution of images [B, H, W, C] with explicit padding, the same on both sides at every stride."""

    def __init__(
        self,
        num_in: int,
        num_out: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 1,
        init_scale: float = 1.0,
        rngs: nnx.Rngs,
    ):
        self.kernel = nnx.Param(xavier_uniform(rngs.params(), (kernel_size, kernel_size, num_in, num_out), init_scale))
        self.bias = nnx.Param(jnp.zeros(num_out))
        self.stride, self.padding = stride, padding

    def without_bias(self, x: Array) -> Array:
        """The convolution alone, for a caller that adds the bias together with something else."""
        return jax.lax.conv_general_dilated(
            x,
            self.kernel[...].astype(x.dtype),
            window_strides=(self.stride, self.stride),
            # "SAME" would pad only the far side of an even-sized input at stride 2.
            padding=((self.padding, self.padding),) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def __call__(self, x: Array) -> Array:
        """``x`` [B, H, W, num_in] to [B, H', W', num_out]."""
        return self.without_bias(x) + self.bias[...].astype(x.dtype)


def dropout(x: Array, rate: float, key: PRNGKey | None) -> Array:
    """Zeroes entries with probability ``rate`` and scales the rest by 1/(1 - rate); identity without a key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros_like(x))


def fourier_features(c_noise: Array, num_features: int) -> Array:
    """Cosines and sines of ``c_noise`` [B] at ``num_features / 2`` frequencies, geometric from 0.5 to 32.

    For the small networks; with c_noise = ln(sigma)/4 the slowest tells the ends of the range apart and the fastest
    goes round once while sigma doubles.
    """
    frequencies = np.geomspace(0.5, 32.0, num_features // 2)
    angles = c_noise[:, None] * jnp.asarray(frequencies, c_noise.dtype)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def one_hot_labels(function: str, labels: Array | None, label_dim: int, batch: int, dtype: jnp.dtype) -> Array | None:
    """Labels as one-hot rows [B, label_dim]: from integers [B], from rows as they are, or zeros for None.

    Raises:
        ValueError: labels for a network without classes, or of another shape.
    """
    if label_dim == 0:
        if labels is not None:
            raise fail(function, "labels", "were given", "None: the network was built with label_dim=0")
        return None
    if labels is None:
        return jnp.zeros((batch, label_dim), dtype)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        check_shape(function, "labels", labels, (batch,))
        return jax.nn.one_hot(labels, label_dim, dtype=dtype)
    check_shape(function, "labels", labels, (batch, label_dim))
    return labels.astype(dtype)


def check_image_inputs(function: str, x: Array, c_noise: Array, image_shape: Sequence[int]) -> None:
    """``x`` is a batch of images of the network's shape and ``c_noise`` one number each."""
    check_shape(function, "x", x, (None, *image_shape))
    check_shape(function, "c_noise", c_noise, (x.shape[0],))
