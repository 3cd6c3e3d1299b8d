"""A convolution with the batch normalisation that follows it, as one kernel and one bias."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxdiv.typing import Array


class FoldedConv(NamedTuple):
    """What a convolution and its normalisation compute with."""

    kernel: Array
    """``[height, width, C_in, C_out]``."""
    bias: Array
    """``[C_out]``."""


def fold_batch_norm(
    kernel: np.ndarray,
    gamma: np.ndarray,
    beta: np.ndarray,
    mean: np.ndarray,
    var: np.ndarray,
    *,
    eps: float,
    dtype: DTypeLike,
) -> FoldedConv:
    """``kernel * s`` and ``beta - mean * s`` with ``s = gamma / sqrt(var + eps)``, computed in float64.

    Args:
        kernel: PyTorch's layout, ``[C_out, C_in, height, width]``.
        gamma: ``[C_out]``, as the three that follow: the normalisation's scale.
        beta: Its shift.
        mean: Of the training activations.
        var: Of the training activations.
        eps: Added to the variance.
        dtype: Of the result.

    >>> one = np.ones(1)
    >>> folded = fold_batch_norm(np.ones((1, 1, 1, 1)), 2 * one, one, 3 * one, 4 * one, eps=0.0, dtype="float32")
    >>> float(folded.kernel[0, 0, 0, 0]), float(folded.bias[0])
    (1.0, -2.0)
    """
    kernel, gamma, beta, mean, var = (np.asarray(x, np.float64) for x in (kernel, gamma, beta, mean, var))
    scale = gamma / np.sqrt(var + eps)
    folded = (kernel * scale[:, None, None, None]).transpose(2, 3, 1, 0)
    return FoldedConv(jnp.asarray(folded, dtype), jnp.asarray(beta - mean * scale, dtype))
