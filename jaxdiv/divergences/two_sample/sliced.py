"""Sliced Wasserstein distances: exact optimal transport of one-dimensional projections."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_choice, check_integer, check_key, check_shape, fail, floating_array
from jaxdiv.divergences.two_sample.arguments import sample_matrices
from jaxdiv.numerics import promote


def _quantile_pieces(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pieces of (0, 1) on which both quantile functions are constant: which order statistics, and how long."""
    ends = np.union1d(np.arange(1, n + 1, dtype=np.int64) * m, np.arange(1, m + 1, dtype=np.int64) * n)
    starts = np.concatenate([[0], ends[:-1]])
    return starts // m, starts // n, (ends - starts) / (n * m)


def projected_wasserstein(directions: Any, *, p_samples: Any, q_samples: Any, order: int = 2) -> jax.Array:
    r"""W_o(p, q)^o of the samples projected on each direction: \int_0^1 |F_p^{-1}(u) - F_q^{-1}(u)|^o du.

    Exact for the empirical distributions, for unequal sizes too: the integral runs over the pieces between all
    multiples of 1/n and 1/m. The largest value is a lower bound of the max-sliced distance, in which directions may be
    learned by gradient.

    Args:
        directions: [num_projections, d] floating, used as they are: give unit vectors.
        p_samples: [n, d] floating.
        q_samples: [m, d] floating.
        order: o, 1 or 2.

    Returns:
        [num_projections], float32 (float64 where an input is): powers o of distances, without the root. Differentiable
        in samples and directions; memory is O(num_projections (n + m)).

    Raises:
        ValueError: wrong shapes, dtypes or order.

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", JMIV 51 (2015), section 2.3.

    >>> p, q = jnp.array([[0.0, 1.0]]), jnp.array([[3.0, 1.0], [0.0, 2.0]])
    >>> projected_wasserstein(jnp.eye(2), p_samples=p, q_samples=q, order=1).tolist()
    [1.5, 0.5]
    """
    function = "projected_wasserstein"
    _check_order(function, order)
    p, q = sample_matrices(function, p_samples=p_samples, q_samples=q_samples)
    directions = promote(floating_array(function, "directions", directions))
    check_shape(function, "directions", directions, (None, p.shape[1]))
    if directions.shape[0] == 0:
        raise fail(function, "directions", f"has shape {directions.shape}", "at least one direction")
    # Relative to q's mean, so that samples far from the origin keep the digits of their differences.
    middle = jax.lax.stop_gradient(jnp.mean(q, axis=0))
    sorted_p, sorted_q = (
        jnp.sort(jnp.matmul(directions, (samples - middle).T, precision="highest"), axis=1) for samples in (p, q)
    )
    if p.shape[0] == q.shape[0]:
        return jnp.mean(_cost(sorted_p - sorted_q, order), axis=1)
    at_p, at_q, lengths = _quantile_pieces(p.shape[0], q.shape[0])
    gaps = _cost(sorted_p[:, at_p] - sorted_q[:, at_q], order)
    return jnp.sum(gaps * jnp.asarray(lengths, gaps.dtype), axis=1)


def _cost(gap: jax.Array, order: int) -> jax.Array:
    return gap * jnp.sign(gap) if order == 1 else jnp.square(gap)  # jax gives abs the slope 1 at 0, where this has 0


def _check_order(function: str, order: Any) -> None:
    check_integer(function, "order", order)
    check_choice(function, "order", order, (1, 2))


def sliced_wasserstein(
    key: jax.Array, *, p_samples: Any, q_samples: Any, order: int = 2, num_projections: int = 128
) -> jax.Array:
    r"""The sliced Wasserstein distance to the power o: the mean of W_o^o over random unit directions.

    The power is what has a gradient at p = q, and what the directions estimate without bias: its standard error falls
    as 1 / sqrt(num_projections). Take ``** (1 / order)`` for the distance.

    Args:
        key: a typed key, for the directions.
        p_samples: [n, d] floating.
        q_samples: [m, d] floating; m need not be n.
        order: o, 1 or 2.
        num_projections: number of directions.

    Returns:
        A scalar >= 0, float32 (float64 where an input is). Differentiable in the samples; memory is
        O(num_projections (n + m)).

    Raises:
        ValueError: wrong shapes, dtypes, key, order or count.

    Source: Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", JMIV 51 (2015), section 2.3.

    >>> x = jnp.array([[0.0], [1.0]])  # in one dimension every direction is the same
    >>> float(sliced_wasserstein(jax.random.key(0), p_samples=x, q_samples=x + 3.0))
    9.0
    """
    function = "sliced_wasserstein"
    check_key(function, key)
    _check_order(function, order)
    check_integer(function, "num_projections", num_projections, 1)
    p, q = sample_matrices(function, p_samples=p_samples, q_samples=q_samples)
    directions = jax.random.normal(key, (num_projections, p.shape[1]), p.dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    return jnp.mean(projected_wasserstein(directions, p_samples=p, q_samples=q, order=order))
