"""What singular values of representations measure: the MMCR loss, matrix entropy, a bound on the nuclear norm."""

from typing import Any

import jax.numpy as jnp

from jaxdiv.checks import check_flag, check_real, fail, floating_array
from jaxdiv.numerics import promote
from jaxdiv.optimizers import Schedule, nuclear_norm
from jaxdiv.optimizers.schedules import find_schedule
from jaxdiv.typing import Array


def mmcr_loss(views: Any, *, local_weight: float = 0.0, schedule: str | Schedule | None = None) -> Array:
    r"""Maximum manifold capacity: -|C|_* + local_weight mean_b |Z_b|_* of unit vectors and their centroids.

    Every vector is scaled to length 1 (0 stays 0); Z_b [V, C] are the views of example b and row b of C is their mean.
    Between -sqrt(min(B, C) B), which is -B for orthonormal centroids of equal views, and 0 for the first term.
    Differentiable; the nuclear norm's gradient is the polar factor, as `jaxdiv.optimizers.nuclear_norm` has it.

    Args:
        views: [..., B, V, C] floating: V views of each of B examples.
        local_weight: at least 0; 0 leaves the second term out, as the authors train.
        schedule: None decomposes the centroids; a name or `Schedule` takes Newton-Schulz's polar factor.

    Returns:
        [...], float32 (float64 where views is).

    Raises:
        ValueError: wrong rank, no entries, not floating, a negative weight, an unknown schedule.

    Source: Yerxa et al., "Learning efficient coding of natural images with maximum manifold capacity representations",
    arXiv:2303.03307, equation 4.

    >>> views = jnp.repeat(jnp.eye(3)[:, None], 2, axis=1)  # three orthonormal centroids
    >>> round(float(mmcr_loss(views)), 5)
    -3.0
    """
    views = promote(floating_array("mmcr_loss", "views", views))
    if views.ndim < 3 or 0 in views.shape[-3:]:
        raise fail("mmcr_loss", "views", f"has shape {views.shape}", "shape [..., B, V, C] with entries")
    check_real("mmcr_loss", "local_weight", local_weight, 0.0, float("inf"), open_high=True)
    if schedule is not None:
        schedule = find_schedule("mmcr_loss", schedule)
    views = _unit_rows(views)
    loss = -nuclear_norm(jnp.mean(views, axis=-2), schedule=schedule)
    if local_weight == 0.0:
        return loss
    return loss + local_weight * jnp.mean(nuclear_norm(views, schedule=schedule), axis=-1)


def token_directions(x: Any) -> Array:
    r"""Rows less their mean, scaled to length 1: what the entropy and the norms of hidden states are taken of.

    Equal rows become rows of 0 exactly. Differentiable; a row of 0 gets no gradient.

    Args:
        x: [..., L, d] floating, L tokens.

    Returns:
        [..., L, d], float32 (float64 where x is).

    Raises:
        ValueError: wrong rank, no entries, not floating.

    Source: Wei et al., "Diff-eRank: a novel rank-based metric for evaluating large language models",
    arXiv:2401.17139, section 3.

    >>> token_directions(jnp.array([[1.0, 0.0], [5.0, 0.0]])).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    x = _tokens("token_directions", x)
    x = x - x[..., :1, :]
    return _unit_rows(x - jnp.mean(x, axis=-2, keepdims=True))


def matrix_entropy(x: Any, *, center: bool = True) -> Array:
    r"""Entropy -sum_i p_i log p_i of the eigenvalues of the tokens' covariance over their sum, in nats.

    p_i = s_i^2 / sum s^2 over the singular values s of `token_directions` (x). Its exponential is an effective rank
    between 1 and min(L - 1, d); divided by log d it is the "normalised" entropy of the literature. 0 where all tokens
    are equal. Differentiable wherever the matrix is not 0.

    Args:
        x: [..., L, d] floating, L tokens.
        center: False takes the rows as they are, without mean or scaling.

    Returns:
        [...], float32 (float64 where x is).

    Raises:
        ValueError: wrong rank, no entries, not floating.

    Source: Wei et al., arXiv:2401.17139, section 3; Roy and Vetterli, "The effective rank" (2007), for the exponential.

    >>> round(float(matrix_entropy(jnp.eye(4), center=False)), 6)  # log 4
    1.386294
    """
    check_flag("matrix_entropy", "center", center)
    x = _tokens("matrix_entropy", x)
    energy = jnp.square(jnp.linalg.svd(token_directions(x) if center else x, compute_uv=False))
    total = jnp.sum(energy, axis=-1, keepdims=True)
    p = energy / jnp.where(total == 0.0, 1.0, total)
    return -jnp.sum(p * jnp.log(jnp.where(p == 0.0, 1.0, p)), axis=-1)


def l12_norm(x: Any) -> Array:
    r"""The sum of the columns' Euclidean norms, an upper bound on the nuclear norm that costs O(L d).

    Equal to it only where the columns are orthogonal, and at most sqrt(d) |x|_F. It is offered as an approximation in
    the literature (divided by L, of `token_directions`), but it cannot see a collapse of rank that is not along the
    axes: for a matrix of rank 1 it may be sqrt(d) times the nuclear norm, `jaxdiv.optimizers.nuclear_norm`. All d
    columns count: a sum over the largest L of them, as published for L < d, is no bound. A column of 0 gets no
    gradient.

    Args:
        x: [..., L, d] floating.

    Returns:
        [...], float32 (float64 where x is).

    Raises:
        ValueError: wrong rank, no entries, not floating.

    Source: Li et al., "Large language model evaluation via matrix nuclear-norm", arXiv:2410.10672, section 4.

    >>> float(l12_norm(jnp.array([[3.0, 1.0], [4.0, 0.0]])))
    6.0
    """
    return jnp.sum(_norms(_tokens("l12_norm", x), -2), axis=(-2, -1))


def _tokens(function: str, x: Any) -> Array:
    x = promote(floating_array(function, "x", x))
    if x.ndim < 2 or 0 in x.shape[-2:]:
        raise fail(function, "x", f"has shape {x.shape}", "shape [..., L, d] with entries")
    return x


def _norms(x: Array, axis: int) -> Array:
    """Euclidean norms with gradient 0 at 0; scaled first, so that no square leaves the range of the dtype."""
    scale = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    scale = jnp.where(scale == 0.0, 1.0, scale)
    squares = jnp.sum(jnp.square(x / scale), axis=axis, keepdims=True)
    return jnp.where(squares == 0.0, 0.0, scale * jnp.sqrt(jnp.where(squares == 0.0, 1.0, squares)))


def _unit_rows(x: Array) -> Array:
    norms = _norms(x, -1)
    return x / jnp.where(norms == 0.0, 1.0, norms)
