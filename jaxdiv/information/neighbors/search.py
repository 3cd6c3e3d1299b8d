"""The k nearest neighbours under a maximum over spaces."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_integer, fail
from jaxdiv.information.arguments import label_array, paired_samples
from jaxdiv.information.neighbors.all_pairs import Neighbors, search_all
from jaxdiv.information.neighbors.pairs import check_search, fits_kernels
from jaxdiv.information.neighbors.sorted_search import search_sorted, sorted_reach
from jaxdiv.typing import Array

# On an H100, where both can do it: 0.5 ms by the kernel and 0.9 by sorting at 10,000 rows, 11 and 4 at 100,000 (1+1
# dimensions), 1,160 and 270 at a million (2+2).
_FEW = 50_000


def space_list(function: str, spaces: Any) -> tuple[Array, ...]:
    """The spaces as matrices of equal rows and one dtype."""
    if not isinstance(spaces, Sequence) or isinstance(spaces, str | bytes) or not spaces:
        raise fail(function, "spaces", f"is {type(spaces).__name__}", "a non-empty sequence of arrays [N, d]")
    return paired_samples(function, **{f"spaces[{i}]": space for i, space in enumerate(spaces)})


def find_neighbors(
    spaces: Sequence[Any],
    *,
    k: int,
    norm: str = "chebyshev",
    tile: int | None = None,
    labels: Any = None,
) -> Neighbors:
    r"""The k nearest other points of each point, at the distance max_s |a_s - b_s| over the spaces s.

    Distances come from differences, never from products, so duplicates are at distance exactly 0. Which of several
    points at equal distance is named is not specified; the distances are.

    Args:
        spaces: arrays [N, d_s] (or [N]) of one N; a single space gives plain neighbours.
        k: from 1 to N - 1.
        norm: "chebyshev" or "euclidean", within each space.
        tile: rows in work at once; memory is O(tile (sqrt(k N) d + k)) beside the data. None chooses.
        labels: [N] integers; only points with the label of a point are its neighbours. Where there are fewer than k,
            the missing distances are infinite and their indices mean nothing.

    Returns:
        `Neighbors` of distances [N, k] ascending, float32 (float64 where an input is), and indices [N, k] int32. All
        distances are NaN where an entry of the data is not finite. No derivative: the inputs are stopped.

    Raises:
        ValueError: wrong shapes, dtypes, norm, or k >= N.

    >>> found = find_neighbors([jnp.array([0.0, 1.0, 4.0]), jnp.array([0.0, 3.0, 3.0])], k=1)
    >>> found.distances[:, 0].tolist(), found.indices[:, 0].tolist()
    ([3.0, 3.0, 3.0], [1, 0, 1])
    """
    function = "find_neighbors"
    data = jax.lax.stop_gradient(space_list(function, spaces))
    count = data[0].shape[0]
    check_search(function, norm, tile)
    check_integer(function, "k", k, 1)
    if k >= count:
        raise fail(function, "spaces", f"have {count} rows", f"more than k = {k}")
    marks = None if labels is None else label_array(function, "labels", labels, count)
    if norm == "chebyshev":
        data = (jnp.concatenate(data, axis=1),)
    num_features = sum(space.shape[1] for space in data)
    reach = sorted_reach(count, num_features, int(k))
    few = count < _FEW or reach is None
    if few and marks is None and fits_kernels(data[0], norm, int(k)):
        from jaxdiv.information.neighbors.kernels import nearest  # Pallas: half a second

        found = Neighbors(*nearest(data[0], int(k)))
    elif reach is None or marks is not None:
        found = search_all(data, marks, int(k), norm, tile)
    else:
        found = search_sorted(data, int(k), norm, tile, reach)
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(space)) for space in data]))
    return found._replace(distances=jnp.where(finite, found.distances, jnp.nan))
