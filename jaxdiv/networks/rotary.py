"""Rotary position embedding.

Su et al.: RoFormer: enhanced transformer with rotary position embedding, arXiv 2104.09864. Entry i of a head is paired
with entry i + dim/2, so that a rotation works on halves; the paper pairs neighbours (2i, 2i + 1), which is the same map
up to a fixed permutation of the kernel's columns.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiv.typing import Array


class Rotation(NamedTuple):
    """Cosines and sines [T, dim/2] of the angles ``position * base^(-2 i / dim)``."""

    cos: Array
    sin: Array


def rotation_at(positions: Array, dim: int, *, base: float, dtype: jnp.dtype) -> Rotation:
    """The rotations at positions [T], computed in ``dtype``, which is float32 at least."""
    frequencies = base ** (-np.arange(0, dim, 2) / dim)
    angles = positions.astype(dtype)[:, None] * jnp.asarray(frequencies, dtype)
    return Rotation(jnp.cos(angles), jnp.sin(angles))


def rotate(x: Array, rotation: Rotation) -> Array:
    """Turns each pair (x_i, x_{i + dim/2}) of ``x`` [B, T, heads, dim] by its angle; shape and dtype of x."""
    cos, sin = rotation.cos[:, None, :], rotation.sin[:, None, :]
    first, second = jnp.split(x.astype(cos.dtype), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
