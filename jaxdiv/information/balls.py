"""Points in the ball of a k-th neighbour, counted so that ties, duplicates and atoms of the law come out right."""

from collections.abc import Sequence

import jax.numpy as jnp

from jaxdiv.checks import check_integer, fail
from jaxdiv.information.neighbors import count_within, find_neighbors
from jaxdiv.information.neighbors.pairs import check_tile
from jaxdiv.typing import Array


def check_neighbors(function: str, count: int, k: int, tile: int | None) -> None:
    """There are more rows than neighbours, of which there is one at least; the tile is a positive count or None."""
    check_tile(function, tile)
    check_integer(function, "k", k, 1)
    if count <= k:
        raise fail(function, "x", f"has {count} rows", f"more than k = {k}")


def nan_unless_finite(*arrays: Array) -> Array:
    """0, or NaN if any entry of an array is NaN or infinite: added to a value, it keeps bad data visible.

    >>> float(nan_unless_finite(jnp.ones(3))), float(nan_unless_finite(jnp.ones(3), jnp.array([jnp.inf])))
    (0.0, nan)
    """
    return sum((jnp.sum(0.0 * array) for array in arrays), jnp.zeros((), arrays[0].dtype))


def closed_if_tied(radius: Array, inside: Array, k: int | Array) -> tuple[Array, Array]:
    r"""How many points a neighbourhood holds, and the radius within which to count strictly.

    Without ties the ball is open: it holds k points, the centre in the place of the k-th neighbour. Where the k-th
    distance is 0, or is shared, so that ``inside`` > k other points are at most that far, the ball is closed: it holds
    all of them and the centre, and the radius grows by one unit in the last place to count them strictly.

    >>> held, radius = closed_if_tied(jnp.array([1.0, 0.0]), jnp.array([3, 4]), 3)
    >>> held.tolist(), bool(radius[0] == 1.0), bool(radius[1] > 0.0)
    ([3, 5], True, True)
    """
    tied = (inside > k) | (radius == 0)
    # Not below the smallest normal number: devices may take smaller ones for 0.
    above = jnp.maximum(jnp.nextafter(radius, jnp.inf), jnp.finfo(radius.dtype).tiny)
    return jnp.where(tied, inside + 1, k), jnp.where(tied, above, radius)


def ball_counts(
    spaces: Sequence[Array], marginals: Sequence[Array], *, k: int, tile: int | None = None
) -> tuple[Array, list[Array]]:
    """Points in each point's joint ball (k without ties) and in its projections on marginals, the centre included.

    Both are counts ``[N]`` in the maximum norm; the rule at ties is that of `closed_if_tied`.

    >>> held, (in_x,) = ball_counts([jnp.array([[0.0], [1.0], [3.0]])], [jnp.zeros((3, 1))], k=1)
    >>> held.tolist(), in_x.tolist()
    ([1, 1, 1], [3, 3, 3])
    """
    radius = find_neighbors(spaces, k=k, tile=tile).distances[:, -1]
    inside = count_within(jnp.concatenate(spaces, axis=1), radius, strict=False, tile=tile)
    held, radius = closed_if_tied(radius, inside, k)
    # At least as many as in the joint ball, also where some of its k points are as far as the k-th.
    return held, [jnp.maximum(count_within(marginal, radius, tile=tile) + 1, held) for marginal in marginals]
