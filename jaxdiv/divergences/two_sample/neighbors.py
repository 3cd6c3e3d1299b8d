"""KL and Renyi divergences from nearest-neighbour distances, which are exact float32 differences on every device."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_integer, check_real, fail
from jaxdiv.divergences.two_sample.arguments import CHUNK_SIZE, check_chunk, sample_matrices
from jaxdiv.divergences.two_sample.kernels import root
from jaxdiv.divergences.two_sample.pairs import map_rows, squared_distances
from jaxdiv.numerics import expm1_scaled, log1p_scaled


class NeighborEstimate(NamedTuple):
    """An estimate from nearest neighbours, and what it had to leave out."""

    value: jax.Array
    """The estimate in nats; NaN if no point was left."""
    num_skipped: jax.Array
    """Points of p_samples with a k-th neighbour at distance 0 (duplicates), which have no density estimate; int32."""


def _smallest(values: jax.Array, k: int) -> jax.Array:
    """Columns of the k smallest entries of each row, ascending, the earlier column first at ties: k reading passes."""
    columns = jnp.arange(values.shape[1])
    # Computed once: a compiler that repeats the arithmetic in every pass is slower, and may round it otherwise there.
    # For the same reason a column is taken out by its number and never by comparing values.
    values = jax.lax.optimization_barrier(values)
    found = [jnp.argmin(values, axis=1)]
    for _ in range(k - 1):
        values = jnp.where(columns == found[-1][:, None], jnp.inf, values)
        found.append(jnp.argmin(values, axis=1))
    return jnp.stack(found, axis=1)


def _neighbors(x: jax.Array, reference: jax.Array, k: int, exclude_self: bool, chunk_size: int) -> jax.Array:
    """Squared distances to the k nearest rows of reference, [n, k] ascending; the choice has no derivative."""
    columns = jnp.arange(reference.shape[0])
    frozen = jax.lax.stop_gradient(reference)

    def nearest(rows, index):
        squared = squared_distances(jax.lax.stop_gradient(rows), frozen, "direct")
        if exclude_self:
            squared = jnp.where(index[:, None] == columns, jnp.inf, squared)
        chosen = _smallest(squared, k)
        return jnp.sum(jnp.square(rows[:, None, :] - reference[chosen]), axis=-1)

    return map_rows(nearest, x, chunk_size=chunk_size)


def nearest_neighbors(
    x: Any,
    reference: Any = None,
    *,
    num_neighbors: int,
    chunk_size: int = CHUNK_SIZE,
) -> jax.Array:
    r"""Euclidean distances from each row to its nearest rows of a reference, ascending.

    Distances are sums of squared differences, so a duplicate is at distance exactly 0. Equal distances count as often
    as they occur. Time grows with num_neighbors, which is meant to be below 20.

    Args:
        x: [n, d] floating.
        reference: [m, d] floating; None for x itself, where a row is not its own neighbour but its duplicate is.
        num_neighbors: k, at most m (n - 1 for x itself).
        chunk_size: rows of the distance matrix that exist at once: memory is O(chunk_size (m + k d)).

    Returns:
        [n, k] float32 (float64 where an input is). Differentiable in x and reference, at fixed neighbours; the
        derivative at distance 0 is 0.

    Raises:
        ValueError: wrong shapes, dtypes or counts.

    >>> nearest_neighbors(jnp.array([[0.0], [1.0], [4.0]]), num_neighbors=2).tolist()
    [[1.0, 4.0], [1.0, 3.0], [3.0, 4.0]]
    """
    function = "nearest_neighbors"
    exclude_self = reference is None
    x, reference = sample_matrices(function, x=x, reference=x if reference is None else reference)
    check_integer(function, "num_neighbors", num_neighbors, 1, reference.shape[0] - exclude_self)
    check_chunk(function, chunk_size)
    return root(_neighbors(x, reference, int(num_neighbors), exclude_self, chunk_size), 0.5)


def _log_ratios(function: str, p_samples: Any, q_samples: Any, k: int, chunk_size: int) -> tuple[jax.Array, jax.Array]:
    """The estimates of log p(x) - log q(x) at the points of p, [n], and where both distances are positive."""
    p, q = sample_matrices(function, p_samples=p_samples, q_samples=q_samples)
    check_integer(function, "num_neighbors", k, 1)
    check_chunk(function, chunk_size)
    n, m = p.shape[0], q.shape[0]
    if n <= k:
        raise fail(function, "p_samples", f"has {n} rows", f"more than num_neighbors = {k}")
    if m < k:
        raise fail(function, "q_samples", f"has {m} rows", f"at least num_neighbors = {k}")
    nearest = _neighbors(p, p, int(k), True, chunk_size), _neighbors(p, q, int(k), False, chunk_size)
    # The last of the k and no other, at ties too, has the derivative. NaN comes first and makes the estimate NaN.
    within, across = (jnp.where(jnp.isnan(squared[:, 0]), jnp.nan, squared[:, -1]) for squared in nearest)
    usable = (within != 0.0) & (across != 0.0)
    halves = jnp.log(jnp.where(usable, across, 1.0)) - jnp.log(jnp.where(usable, within, 1.0))
    return p.shape[1] / 2.0 * halves + math.log(m / (n - 1)), usable


def knn_kl(*, p_samples: Any, q_samples: Any, num_neighbors: int = 5, chunk_size: int = CHUNK_SIZE) -> NeighborEstimate:
    r"""KL(p || q) from the distances rho to the k-th neighbour in p (not itself) and nu to the k-th in q.

    (d / n) sum_i log(nu_i / rho_i) + log(m / (n - 1)): the biases of the two density estimates cancel, so it is
    consistent at fixed k. Larger k has less variance and more bias. May be negative. Where distributions overlap
    little, or in many dimensions, it is biased towards small values.

    Ties: equal positive distances need no rule, since only the k-th distance enters. A point whose k-th neighbour in
    either set is at distance 0 (k duplicates) has an infinite density estimate: it is left out and counted.

    Args:
        p_samples: [n, d] floating, n > num_neighbors.
        q_samples: [m, d] floating, m >= num_neighbors.
        num_neighbors: k >= 1.
        chunk_size: rows of the distance matrix that exist at once: memory is O(chunk_size max(n, m)).

    Returns:
        A `NeighborEstimate` of scalars, float32 (float64 where an input is). Differentiable at fixed neighbours.

    Raises:
        ValueError: wrong shapes, dtypes or counts.

    Source: Wang, Kulkarni, Verdu, "Divergence estimation for multidimensional densities via k-nearest-neighbor
    distances", IEEE Trans. Inf. Theory 55 (2009), equation 14.

    >>> p, q = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.5], [4.0]])
    >>> round(float(knn_kl(p_samples=p, q_samples=q, num_neighbors=1).value), 6)  # (log 1/2 + log 1/2 + log 3/2) / 3
    -0.326943
    """
    logs, usable = _log_ratios("knn_kl", p_samples, q_samples, num_neighbors, chunk_size)
    count = jnp.sum(usable)
    value = jnp.sum(jnp.where(usable, logs, 0.0)) / count
    return NeighborEstimate(value, usable.size - count)


def knn_renyi(
    order: float, *, p_samples: Any, q_samples: Any, num_neighbors: int = 5, chunk_size: int = CHUNK_SIZE
) -> NeighborEstimate:
    r"""The Renyi divergence log(\int p^a q^(1-a)) / (a - 1) from k-th neighbour distances; `knn_kl` at a = 1.

    The integral is B / n sum_i ((n-1) rho_i^d / (m nu_i^d))^(1-a), B = Gamma(k)^2 / (Gamma(k-a+1) Gamma(k+a-1)):
    B makes it asymptotically unbiased, and exists for k > |a - 1|. Ties and duplicates as in `knn_kl`.

    Args:
        order: a > 0, with |a - 1| < num_neighbors. Continuous at a = 1.
        p_samples: [n, d] floating, n > num_neighbors.
        q_samples: [m, d] floating, m >= num_neighbors.
        num_neighbors: k >= 1.
        chunk_size: rows of the distance matrix that exist at once: memory is O(chunk_size max(n, m)).

    Returns:
        A `NeighborEstimate` of scalars, float32 (float64 where an input is). Differentiable at fixed neighbours.

    Raises:
        ValueError: wrong shapes, dtypes, counts or order.

    Source: Poczos and Schneider, "On the estimation of alpha-divergences", AISTATS 2011, equation 4; B is derived from
    the gamma law of n p(x) rho^d.

    >>> p, q = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([[0.5], [4.0]])
    >>> estimate = knn_renyi(0.5, p_samples=p, q_samples=q, num_neighbors=1)
    >>> round(float(estimate.value), 6)  # -2 log((2 sqrt 2 + sqrt(2/3)) / 3 / Gamma(3/2) / Gamma(1/2))
    0.513719
    """
    function = "knn_renyi"
    check_real(function, "order", order, 0.0, math.inf, open_low=True, open_high=True)
    check_integer(function, "num_neighbors", num_neighbors, 1)
    if abs(order - 1.0) >= num_neighbors:
        raise fail(function, "order", f"is {order}", f"|order - 1| below num_neighbors = {num_neighbors}")
    logs, usable = _log_ratios(function, p_samples, q_samples, num_neighbors, chunk_size)
    c, k = float(order) - 1.0, int(num_neighbors)
    count = jnp.sum(usable)
    middle = jnp.sum(jnp.where(usable, logs, 0.0)) / count
    deviations = jnp.where(usable, logs - middle, 0.0)
    # log mean exp(c u) / c twice: for small c u without the cancellation of the quotient, for large without overflow.
    small = jnp.max(jnp.abs(c * deviations)) < 1.0
    near = jnp.where(small, deviations, 0.0)
    value = log1p_scaled(jnp.sum(jnp.where(usable, expm1_scaled(near, c), 0.0)) / count, c)
    if c != 0.0:
        far = jax.nn.logsumexp(jnp.where(usable, c * deviations, -jnp.inf)) - jnp.log(count.astype(logs.dtype))
        log_b = 2.0 * math.lgamma(k) - math.lgamma(k - c) - math.lgamma(k + c)
        value = jnp.where(small, value, far / c) + log_b / c
    return NeighborEstimate(middle + value, usable.size - count)
