"""Squared Frechet distance of Gaussian fits, differentiable, without a matrix square root and never below 0.

With covariances S_p = F_p F_p^T and S_q = F_q F_q^T the distance of the covariance parts is the least |F_p - F_q O|^2
over orthogonal O, reached at O = V U^T for F_p^T F_q = U S V^T. This sum of squares has no cancellation, and since O
minimises it, first derivatives take O as constant: they are finite for singular covariances and equal sets too.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_shape, fail, floating_array
from jaxdiv.divergences.two_sample.arguments import sample_matrices
from jaxdiv.numerics import promote


def _rotation(product: jax.Array) -> jax.Array:
    """U V^T of a square matrix U S V^T."""
    u, _, vh = jnp.linalg.svd(product, full_matrices=False)
    return jnp.matmul(u, vh, precision="highest")


@jax.custom_jvp
def _scatter_distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """The Bures distance squared of a^T a and b^T b, from factors with at least as many rows as columns."""
    return _scatter_parts(a, b)[0]


def _scatter_parts(a, b):
    q_a, r_a = jnp.linalg.qr(a)
    q_b, r_b = jnp.linalg.qr(b)
    rotation = _rotation(jnp.matmul(r_a, r_b.T, precision="highest"))
    gap = r_a - jnp.matmul(rotation, r_b, precision="highest")
    return jnp.sum(gap * gap), q_a, q_b, rotation, gap


@_scatter_distance.defjvp
def _scatter_distance_jvp(primals, tangents):
    (a, b), (da, db) = primals, tangents
    value, q_a, q_b, rotation, gap = _scatter_parts(a, b)
    slope_a = jnp.matmul(q_a, gap, precision="highest")
    slope_b = jnp.matmul(q_b, jnp.matmul(rotation.T, gap, precision="highest"), precision="highest")
    return value, 2.0 * (jnp.sum(slope_a * da) - jnp.sum(slope_b * db))


def _centered_factor(samples: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean, and a matrix A with A^T A the unbiased covariance and at least as many rows as columns."""
    n, d = samples.shape
    mean = jnp.mean(samples, axis=0)
    factor = (samples - mean) / math.sqrt(n - 1)
    return mean, jnp.pad(factor, ((0, max(0, d - n)), (0, 0)))


def frechet_distance(*, p_samples: Any, q_samples: Any) -> jax.Array:
    r"""Squared Frechet (2-Wasserstein) distance of the Gaussians fitted to two samples, with unbiased covariances.

    |m_p - m_q|^2 + tr(S_p + S_q - 2 (S_p^{1/2} S_q S_p^{1/2})^{1/2}); FID for whatever features come in. Works on the
    samples' own factors, not on their covariances, so float32 costs rounding of the features' size and not its root:
    n < d and equal sets are fine. Biased upwards in small samples.

    Args:
        p_samples: [n, d] floating, n >= 2.
        q_samples: [m, d] floating, m >= 2.

    Returns:
        A scalar >= 0, float32 (float64 where an input is). Differentiable in both; where covariances are singular it
        gives the subgradient of least norm. Memory is O((n + m) d).

    Raises:
        ValueError: wrong shapes or dtypes.

    Source: Dowson and Landau, "The Frechet distance between multivariate normal distributions" (1982), equation 4;
    Bhatia, Jain, Lim, "On the Bures-Wasserstein distance between positive definite matrices", arXiv:1712.01504,
    theorem 1.

    >>> x = jnp.array([[-1.0], [1.0]])
    >>> round(float(frechet_distance(p_samples=x, q_samples=3.0 * x + 1.0)), 5)  # 1 + (3 sqrt 2 - sqrt 2)^2
    9.0
    """
    p, q = sample_matrices("frechet_distance", min_rows=2, p_samples=p_samples, q_samples=q_samples)
    (p_mean, p_factor), (q_mean, q_factor) = _centered_factor(p), _centered_factor(q)
    return jnp.sum(jnp.square(p_mean - q_mean)) + _scatter_distance(p_factor, q_factor)


def _eigen_factor(covariance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """F = V sqrt(L) and its pseudo-inverse; eigenvalues that are rounding noise (negative ones too) become 0."""
    values, vectors = jnp.linalg.eigh(covariance)
    floor = jnp.maximum(values[-1], 0.0) * values.size * jnp.finfo(values.dtype).eps
    kept = ~(values <= floor)  # and what is not a number stays none
    roots = jnp.sqrt(jnp.where(kept, values, 1.0))
    return vectors * jnp.where(kept, roots, 0.0), jnp.where(kept, 1.0 / roots, 0.0)[:, None] * vectors.T


def _covariance_parts(p, q):
    f_p, inverse_p = _eigen_factor(p)
    f_q, inverse_q = _eigen_factor(q)
    rotation = _rotation(jnp.matmul(f_p.T, f_q, precision="highest"))
    gap = f_p - jnp.matmul(f_q, rotation.T, precision="highest")
    return jnp.sum(gap * gap), f_p, inverse_p, f_q, inverse_q, rotation


@jax.custom_jvp
def _covariance_distance(p: jax.Array, q: jax.Array) -> jax.Array:
    """The Bures distance squared of two covariance matrices."""
    return _covariance_parts(p, q)[0]


@_covariance_distance.defjvp
def _covariance_distance_jvp(primals, tangents):
    (p, q), (dp, dq) = primals, tangents
    value, f_p, inverse_p, f_q, inverse_q, rotation = _covariance_parts(p, q)
    # The slope in S_p is 1 - T with T the optimal transport map from p to q, T = F_q O F_p^{-1}.
    map_p = jnp.matmul(jnp.matmul(f_q, rotation.T, precision="highest"), inverse_p, precision="highest")
    map_q = jnp.matmul(jnp.matmul(f_p, rotation, precision="highest"), inverse_q, precision="highest")
    return value, jnp.trace(dp) + jnp.trace(dq) - jnp.sum(map_p * dp) - jnp.sum(map_q * dq)


def frechet_distance_from_moments(*, p_mean: Any, p_covariance: Any, q_mean: Any, q_covariance: Any) -> jax.Array:
    r"""Squared Frechet (2-Wasserstein) distance of two Gaussians given by their moments.

    As `frechet_distance`, from covariances; their symmetric parts count. An eigenvalue below d rounding units of the
    largest is taken as 0: in float32 that hides standard deviations below 3e-4 sqrt(d) of the widest, and the samples
    themselves or float64 do not.

    Args:
        p_mean: [d] floating.
        p_covariance: [d, d] floating, symmetric and positive semidefinite.
        q_mean: [d] floating.
        q_covariance: [d, d] floating, symmetric and positive semidefinite.

    Returns:
        A scalar >= 0, float32 (float64 where an input is). Differentiable where both covariances are regular; along a
        direction in which a covariance is singular the derivative is infinite, and its finite part is given.

    Raises:
        ValueError: wrong shapes or dtypes.

    Source: Dowson and Landau (1982), equation 4; Bhatia, Jain, Lim, arXiv:1712.01504, theorem 1.

    >>> zero, eye = jnp.zeros(2), jnp.eye(2)
    >>> float(frechet_distance_from_moments(p_mean=zero, p_covariance=eye, q_mean=zero + 1.0, q_covariance=4.0 * eye))
    4.0
    """
    function = "frechet_distance_from_moments"
    given = {"p_mean": p_mean, "p_covariance": p_covariance, "q_mean": q_mean, "q_covariance": q_covariance}
    arrays = {name: promote(floating_array(function, name, value)) for name, value in given.items()}
    first = arrays["p_mean"]
    if first.ndim != 1 or first.size == 0:
        raise fail(function, "p_mean", f"has shape {first.shape}", "shape (d) with d >= 1")
    d = first.size
    for name, array in arrays.items():
        check_shape(function, name, array, (d,) if name.endswith("mean") else (d, d))
    dtype = jnp.result_type(*arrays.values())
    p_mean, p_cov, q_mean, q_cov = (array.astype(dtype) for array in arrays.values())
    symmetric = [(cov + cov.T) / 2.0 for cov in (p_cov, q_cov)]
    return jnp.sum(jnp.square(p_mean - q_mean)) + _covariance_distance(*symmetric)
