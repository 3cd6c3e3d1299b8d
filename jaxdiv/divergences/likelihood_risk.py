r"""How far a maximum-likelihood estimate in an exponential family is from the member it estimates, and is that near
enough.

With the projection eta* of the data's law g on the family, mu* = E_g[T], and the estimate's mean parameters the sample
mean m of T, the risk is E KL(eta* || estimate). In the conjugate C = A*, with z = m - mu*,

    KL(eta* || estimate) = C2 z z / 2 + C3 z z z / 3 + C4 z z z z / 8 + ..., Ck the k-th derivative of C at mu*,

and E z z = G / n, with G the covariance of T under g. C2 is the inverse of H = Hess A(eta*), so the leading term is
tr(G H^-1) / (2 n), which is d / (2 n) where the family holds g: these two are Sheena's. There, by C3 = -K3 and
C4 = 3 (K3 . K3) - K4 with cumulants K of T, all indices lowered by H^-1, the next term is

    (5/12 S3 + 3/8 V - 3/8 S4) / n^2, S3 = K_abc K^abc, V = K_abb K_acc, S4 = K_aabb,

derived here and tested against exact sums. The average leaves out estimates that do not exist (an empty class).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_integer, check_shape, floating_array
from jaxdiv.divergences.exponential_family import LogPartitionFn, over_rows, read_vectors
from jaxdiv.numerics import promote
from jaxdiv.typing import Array, ArrayLike


class EstimationRisk(NamedTuple):
    """The expansion of E KL(projection || maximum-likelihood estimate) in 1 / n."""

    leading: Array
    """The term of order 1 / n, ``[...]``."""
    second: Array | None
    """The term of order 1 / n^2, ``[...]``, of either sign; None for a misspecified family."""


def estimation_risk(
    log_partition_fn: LogPartitionFn,
    *,
    natural: ArrayLike,
    num_samples: int,
    statistics_covariance: ArrayLike | None = None,
) -> EstimationRisk:
    r"""The expected KL(member || maximum-likelihood estimate from n samples), to order 1 / n^2.

    d / (2 n) + (5/12 S3 + 3/8 V - 3/8 S4) / n^2 where the data follow the member; tr(G H^-1) / (2 n) where they follow
    another law with the same E[T], whose covariance of T is G.

    Args:
        log_partition_fn: A, ``[d] -> []``, strictly convex and, for the second term, four times differentiable; that
            term needs d^4 numbers.
        natural: natural parameters of the member, ``[..., d]``.
        num_samples: n, a Python integer of at least 1.
        statistics_covariance: G, ``[..., d, d]``; leave it out where the family holds the data's law.

    Returns:
        `EstimationRisk`, float32 or float64, differentiable.

    Raises:
        ValueError: num_samples is out of range, the covariance has another shape or no floating dtype, or as
            `bregman_divergence`.

    >>> from jaxdiv.divergences.exponential_family import poisson_log_partition
    >>> risk = estimation_risk(poisson_log_partition, natural=jnp.array([0.0]), num_samples=100)
    >>> round(float(risk.leading), 6), round(float(risk.second * 100**2), 6)  # 1 / (2 n) and 5/12
    (0.005, 0.416667)

    Source: Sheena, "MLE convergence speed to information projection of exponential family" (arXiv:2105.08947), for the
    leading terms and the criterion; the module's head derives the second.
    """
    function = "estimation_risk"
    check_integer(function, "num_samples", num_samples, 1)
    (natural,) = read_vectors(function, log_partition_fn, natural=natural)
    hessian_fn = jax.hessian(log_partition_fn)
    n = float(num_samples)  # its square as an integer may be beyond int32
    if statistics_covariance is not None:
        covariance = floating_array(function, "statistics_covariance", statistics_covariance)
        check_shape(function, "statistics_covariance", covariance, (*natural.shape, natural.shape[-1]))

        def trace(natural, covariance):
            return jnp.trace(jnp.linalg.solve(hessian_fn(natural), covariance)) / (2 * n)

        dtype = jnp.result_type(natural, promote(covariance))
        return EstimationRisk(over_rows(trace, natural.astype(dtype), covariance.astype(dtype)), None)

    def second(natural):
        third_fn = jax.jacfwd(hessian_fn)
        # In coordinates in which H = I every index is lowered already.
        inverse = jnp.linalg.inv(jnp.linalg.cholesky(hessian_fn(natural)))
        third = jnp.einsum("ai,bj,ck,ijk->abc", inverse, inverse, inverse, third_fn(natural), precision="highest")
        fourth = jax.jacfwd(third_fn)(natural)
        metric = jnp.matmul(inverse.T, inverse, precision="highest")
        s4 = jnp.einsum("ijkl,ij,kl->", fourth, metric, metric, precision="highest")
        v = jnp.einsum("abb->a", third)
        return (5.0 / 12.0 * jnp.sum(third**2) + 3.0 / 8.0 * (jnp.sum(v**2) - s4)) / n**2

    leading = jnp.full(natural.shape[:-1], natural.shape[-1] / (2 * n), natural.dtype)
    return EstimationRisk(leading, over_rows(second, natural))


def bayes_error_bound(divergence: ArrayLike) -> Array:
    r"""A lower bound of the error rate of the best classifier between p and q at even odds, from KL(p || q).

    The rate is (1 - TV) / 2, and TV is at most sqrt(KL / 2) (Pinsker) and at most sqrt(1 - e^{-KL}) (Bretagnolle and
    Huber). The p-n criterion takes an estimate for near enough to its target when no classifier can tell them apart at
    an error rate below a chosen one such as 0.45: compare it with the bound at the sum of `estimation_risk`'s terms.
    The criterion is Sheena's; that it uses these two bounds is a choice made here.

    Args:
        divergence: KL divergences >= 0 in nats, floating, any shape, in either direction; NaN where negative.

    Returns:
        Error rates in [0, 1/2], of the same shape, float32 or float64.

    Raises:
        ValueError: the argument is no floating array.

    >>> round(float(bayes_error_bound(0.02)), 6)  # (1 - 0.1) / 2
    0.45

    Source: Tsybakov, "Introduction to nonparametric estimation" (2009), lemmas 2.5 and 2.6.
    """
    divergence = promote(floating_array("bayes_error_bound", "divergence", divergence))
    distance = jnp.minimum(jnp.sqrt(divergence / 2.0), jnp.sqrt(-jnp.expm1(-divergence)))
    return (1.0 - distance) / 2.0
