"""Upper bounds on mutual information from the conditional log-densities of all pairs of a batch.

``log_density[..., i, j]`` is log q(y_j | x_i). Both are upper bounds only where q is the true conditional, as the
encoder's p(z | x) of a variational bottleneck is; a density that was fitted may put them on either side.
"""

import math

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_flag
from jaxdiv.information.bounds import diagonal, off_diagonal, product_terms, score_matrix
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.typing import ArrayLike


def club(log_density: ArrayLike, *, is_exact: bool = False) -> Estimate:
    r"""CLUB, mean_i log q(y_i | x_i) - mean_{i != j} log q(y_j | x_i).

    Unbiased for KL(joint || product) + KL(product || joint) >= I when q is the true conditional; with a fitted q no
    bound, and below 0 where q fits worse than chance.

    Args:
        log_density: floating ``[..., B, B]``, B >= 2, log q(y_j | x_i); a function of y alone may be left out.
        is_exact: whether q is the true conditional, which makes the kind "upper bound" in place of "not MI".

    Returns:
        An `Estimate`, value ``[...]``, float32 (float64 for float64), differentiable; ``stderr`` and ``info["local"]``
        ``[..., B]`` (terms of mean ``value``) carry no gradient.

    Raises:
        ValueError: no floating array of square matrices with B >= 2, or is_exact no boolean.

    Source: Cheng et al., "CLUB: a contrastive log-ratio upper bound of mutual information" (arXiv:2006.12013),
    equation 10. The authors' sample mean includes i = j, which shrinks it by 1 - 1/B.

    >>> float(club(jnp.array([[2.0, -1.0], [0.0, 4.0]])))  # 3 + 1/2
    3.5
    """
    log_q = score_matrix("club", "log_density", log_density)
    check_flag("club", "is_exact", is_exact)
    value = jnp.mean(diagonal(log_q), axis=-1) - jnp.mean(off_diagonal(log_q), axis=-1)
    local = jax.lax.stop_gradient(diagonal(log_q) - product_terms(log_q))
    return make_estimate(value, kind="upper bound" if is_exact else "not MI", local=local)


def leave_one_out(log_density: ArrayLike, *, is_exact: bool = False) -> Estimate:
    r"""L1Out, mean_i [log q(y_i | x_i) - log mean_{j != i} q(y_i | x_j)].

    The others' mixture stands for the marginal of y. Its expected logarithm is below that of the marginal (Jensen), so
    with the true conditional this is an upper bound, nearer than `club` for large B.

    Args:
        log_density: floating ``[..., B, B]``, B >= 2, log q(y_j | x_i); a function of y alone may be left out.
        is_exact: whether q is the true conditional, which makes the kind "upper bound" in place of "not MI".

    Returns:
        An `Estimate`, value ``[...]``, float32 (float64 for float64), differentiable; ``stderr`` and ``info["local"]``
        ``[..., B]`` (terms of mean ``value``, which count a pair's own term and its part in the others' mixtures) carry
        no gradient.

    Raises:
        ValueError: no floating array of square matrices with B >= 2, or is_exact no boolean.

    Source: Poole et al., "On variational bounds of mutual information" (arXiv:1905.06922), equation 15.

    >>> round(float(leave_one_out(jnp.log(jnp.array([[4.0, 1.0], [1.0, 4.0]])))), 6)  # log 4
    1.386294
    """
    log_q = score_matrix("leave_one_out", "log_density", log_density)
    check_flag("leave_one_out", "is_exact", is_exact)
    size = log_q.shape[-1]
    others = jnp.where(jnp.eye(size, dtype=bool), -jnp.inf, log_q)
    log_mixture = jax.nn.logsumexp(others, axis=-2) - math.log(size - 1)
    terms = diagonal(log_q) - log_mixture
    share = jnp.sum(jnp.exp(others - log_mixture[..., None, :]), axis=-1) / (size - 1)
    local = jax.lax.stop_gradient(terms - share + 1.0)
    kind = "upper bound" if is_exact else "not MI"
    return make_estimate(jnp.mean(terms, axis=-1), kind=kind, local=local)
