"""NorMuon: the polar factor with its neurons brought to one size, a second moment of one number per output."""

import jax.numpy as jnp

from jaxdiv.checks import check_scalar, check_shape, floating_array
from jaxdiv.numerics import promote
from jaxdiv.typing import Array


def normalize_neurons(matrices: Array, second_moment: Array, *, decay: float | Array = 0.95) -> tuple[Array, Array]:
    r"""Divides each output of a matrix by the running size of its updates, and keeps the matrix's norm.

    ``v <- decay v + (1 - decay) mean_i O_ij^2`` over the inputs i, then ``O_ij / sqrt(max(v_j, 1e-10))``, times the
    factor per matrix that restores the Frobenius norm. That factor also makes a correction of v's start at 0 needless.

    Args:
        matrices: ``[..., in, out]``, what `orthogonalize` returned.
        second_moment: v, ``[..., out]``.
        decay: in [0, 1).

    Returns:
        The matrices and the new v, in float32 (float64 where the matrices are).

    Source: Li et al., NorMuon: making Muon more efficient and scalable (2025), arXiv 2510.05491, algorithm 1.

    >>> x, v = normalize_neurons(jnp.array([[3.0, 0.5], [3.0, 0.5]]), jnp.zeros(2), decay=0.5)
    >>> [round(float(n), 3) for n in jnp.linalg.norm(x, axis=0)], [float(n) for n in v]
    ([3.041, 3.041], [4.5, 0.125])
    """
    matrices = promote(floating_array("normalize_neurons", "matrices", matrices))
    check_scalar("normalize_neurons", "decay", decay, 0.0, 1.0, open_high=True)
    check_shape("normalize_neurons", "second_moment", second_moment, (*matrices.shape[:-2], matrices.shape[-1]))
    factors, second_moment = neuron_factors(jnp.mean(jnp.square(matrices), axis=-2), second_moment, decay=decay)
    return matrices * factors[..., None, :], second_moment


def neuron_factors(sizes: Array, second_moment: Array, *, decay: float | Array) -> tuple[Array, Array]:
    """What `normalize_neurons` multiplies each output by, and the new v, from the mean squares ``[..., out]``."""
    second_moment = decay * second_moment + (1.0 - decay) * sizes
    factors = 1.0 / jnp.sqrt(jnp.maximum(second_moment, 1e-10))
    # The norms follow from the sizes; no pass over the scaled matrix is needed.
    before = jnp.sum(sizes, axis=-1, keepdims=True)
    after = jnp.sum(sizes * jnp.square(factors), axis=-1, keepdims=True)
    keep = jnp.sqrt(before / jnp.where(after == 0.0, 1.0, after))
    return keep * factors, second_moment
