"""Mutual information from nearest neighbours: the two estimators of Kraskov, Stoegbauer and Grassberger."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma

from jaxdiv.checks import check_choice, check_integer, fail
from jaxdiv.information.arguments import paired_samples
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.information.neighbors import count_within, find_neighbors
from jaxdiv.information.neighbors.pairs import check_search, space_distances
from jaxdiv.typing import Array


def _extent(x: Array, indices: Array, norm: str) -> Array:
    """The largest distance in one space to the neighbours named."""
    return jnp.max(space_distances(x[:, :, None], x[indices].swapaxes(1, 2), norm), axis=1)


def ksg(
    x: Any,
    y: Any,
    *,
    k: int = 5,
    form: int = 1,
    norm: str = "chebyshev",
    tile: int | None = None,
) -> Estimate:
    r"""I(X; Y) from the k nearest neighbours in the joint space, at the larger of the distances in x and in y.

    With e_i the distance to the k-th neighbour, n_x(i) = #{j != i : |x_j - x_i| < e_i} and n_y alike, form 1 is

        psi(k) + psi(N) - mean_i [psi(n_x(i) + 1) + psi(n_y(i) + 1)].

    Form 2 lets each space have its own extent, the largest distance in it to one of the k neighbours, and counts
    distances up to it:

        psi(k) - 1/k + psi(N) - mean_i [psi(n_x(i)) + psi(n_y(i))].

    Near zero bias where X and Y are independent; too small where they depend strongly or have many dimensions: it
    cannot exceed psi(N) - psi(k) (form 1) or psi(N) - psi(k) - 1/k (form 2), which is the ``ceiling``. May be negative.
    Invariant under translation, permutation of the samples and a common scale; not under separate scales of x and y,
    so bring them to a similar scale (their ranks, for instance).

    Ties: a point with k duplicates (e_i = 0) is an atom, and its term is that of a plug-in estimate, psi(m) + psi(N) -
    psi(m_x) - psi(m_y), with m the copies of the pair, m_x and m_y those of x and of y, itself included. Form 2 where
    one extent is 0, as with a constant column, counts that space with the point itself and leaves out 1/k. So discrete
    parts and mixtures come out right, and a constant x gives 0. Points at equal positive distance are ordered as
    the search names them.

    Args:
        x: [N, d_x] floating, or [N].
        y: [N, d_y] floating, or [N].
        k: neighbours, from 1 to N - 1. More have less variance and more bias.
        form: 1 or 2. Form 2 has the smaller statistical error in low dimensions, and the larger bias.
        norm: "chebyshev" or "euclidean", within x and within y.
        tile: rows in work at once, see `find_neighbors`.

    Returns:
        An `Estimate` ("plug-in"), float32 (float64 where an input is); NaN where an entry is not finite. ``stderr``
        treats the terms as independent. ``info``: ``local`` [N] the terms, whose mean is the value; ``num_ties`` int32,
        points with k duplicates. No derivative: the inputs are stopped.

    Raises:
        ValueError: wrong shapes, dtypes, form or norm, or k >= N.

    Source: Kraskov, Stoegbauer, Grassberger, "Estimating mutual information", Phys. Rev. E 69 (2004), 066138,
    arXiv:cond-mat/0305641, equations 8 and 9. The term of an atom: Gao, Kannan, Oh, Viswanath, "Estimating mutual
    information for discrete-continuous mixtures", arXiv:1709.06212, algorithm 1, with digamma for the logarithms.

    >>> x = jnp.array([0.0, 1.0, 3.0, 7.0])
    >>> round(float(ksg(x, x, k=1).value), 6)  # psi(1) + psi(4) - 2 psi(1): no other point is strictly within
    1.833333
    """
    function = "ksg"
    check_choice(function, "form", form, (1, 2))
    check_search(function, norm, tile)
    check_integer(function, "k", k, 1)
    x, y = jax.lax.stop_gradient(paired_samples(function, x=x, y=y))
    count, k = x.shape[0], int(k)
    if count <= k:
        raise fail(function, "x", f"has {count} rows", f"more than k = {k}")
    found = find_neighbors([x, y], k=k, norm=norm, tile=tile)
    radius = found.distances[:, -1]
    tied = radius == 0.0
    tiny = jnp.finfo(x.dtype).tiny
    psi_k, psi_n = digamma(jnp.asarray(k, x.dtype)), digamma(jnp.asarray(count, x.dtype))

    def psi(number):
        return digamma(number.astype(x.dtype))

    if form == 1:
        reach = jnp.where(tied, tiny, radius)  # the copies of an atom count as within
        counts = [count_within(space, reach, norm=norm, tile=tile) for space in (x, y)]
        # k - 1 neighbours are within by rank, also where they are as far as the k-th.
        psi_x, psi_y = (psi(jnp.maximum(number, k - 1) + 1) for number in counts)
        head = jnp.broadcast_to(psi_k, (count,))
    else:
        extents = [_extent(space, found.indices, norm) for space in (x, y)]
        counts = [
            jnp.maximum(count_within(space, extent, norm=norm, strict=False, tile=tile), k)
            for space, extent in zip((x, y), extents, strict=True)
        ]
        flat = [extent == 0.0 for extent in extents]
        psi_x, psi_y = (psi(number + zero) for number, zero in zip(counts, flat, strict=True))
        head = jnp.where(flat[0] | flat[1], psi_k, psi_k - 1.0 / k)

    def copies():
        both = jnp.concatenate([x, y], axis=1)
        return 1 + count_within(both, jnp.zeros_like(radius), strict=False, tile=tile)

    copied = jax.lax.cond(jnp.any(tied), copies, lambda: jnp.ones(count, jnp.int32))
    local = jnp.where(tied, psi(copied), head) + psi_n - psi_x - psi_y
    local = jnp.where(jnp.isnan(radius), jnp.nan, local)
    return make_estimate(
        jnp.mean(local),
        kind="plug-in",
        local=local,
        ceiling=psi_n - psi_k - (1.0 / k if form == 2 else 0.0),
        num_ties=jnp.sum(tied, dtype=jnp.int32),
    )
