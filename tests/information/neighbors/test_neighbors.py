"""Neighbours and counts against all distances in numpy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.information.neighbors import count_within, find_neighbors


def pairwise(x, norm):
    """All distances of one space in its own dtype, the diagonal included."""
    difference = np.abs(x[:, None] - x[None])
    if norm == "chebyshev" or x.shape[1] == 1:
        return difference.max(-1)
    return np.sqrt(np.cumsum(np.square(difference), axis=-1, dtype=x.dtype)[..., -1])


def draw(seed, count, *dims, grid=False):
    rng = np.random.default_rng(seed)
    out = [rng.normal(size=(count, d)).astype(np.float32) for d in dims]
    return [np.round(2 * x) / 2 for x in out] if grid else out


def oracle(spaces, k, norm, labels=None):
    joint = np.max([pairwise(x, norm) for x in spaces], axis=0)
    if labels is not None:
        joint = np.where(labels[:, None] == labels, joint, np.inf)
    np.fill_diagonal(joint, np.inf)
    return joint, np.sort(joint, axis=1)[:, :k]


CASES = [(2, 1, (1,)), (7, 6, (1, 2)), (65, 1, (1, 1)), (130, 5, (2, 3)), (301, 11, (4, 1, 2)), (97, 3, (70,))]


@pytest.mark.parametrize("grid", [False, True], ids=["continuous", "grid"])
@pytest.mark.parametrize("norm", ["chebyshev", "euclidean"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_neighbors_are_those_of_all_distances(case, norm, grid):
    count, k, dims = case
    spaces = draw(count, count, *dims, grid=grid)
    found = jax.jit(partial(find_neighbors, k=k, norm=norm, tile=32))(spaces)
    joint, expected = oracle(spaces, k, norm)
    assert found.distances.dtype == jnp.float32 and found.indices.dtype == jnp.int32
    tolerance = 0.0 if norm == "chebyshev" else 3e-7
    np.testing.assert_allclose(found.distances, expected, rtol=tolerance, atol=0.0)
    named = np.take_along_axis(joint, np.asarray(found.indices), 1)
    np.testing.assert_allclose(named, found.distances, rtol=tolerance)
    assert all(len(set(row)) == k for row in found.indices.tolist())


@pytest.mark.parametrize("norm", ["chebyshev", "euclidean"])
@pytest.mark.parametrize("d", [1, 3])
def test_counts_are_those_of_all_distances(d, norm):
    """On a grid whose distances are exact, radii equal to distances: strict and not differ."""
    count = 203
    (x,) = draw(d, count, d, grid=True)
    labels = np.arange(count) % 3
    distances = pairwise(x, norm)
    radius = np.take_along_axis(np.sort(distances, 1), np.arange(count)[:, None] % 40, 1)[:, 0]
    for strict in (True, False):
        inside = distances < radius[:, None] if strict else distances <= radius[:, None]
        np.fill_diagonal(inside, False)
        found = count_within(x, radius, norm=norm, strict=strict, tile=50)
        np.testing.assert_array_equal(found, inside.sum(1))
        found = count_within(x, radius, norm=norm, strict=strict, labels=labels)
        np.testing.assert_array_equal(found, (inside & (labels[:, None] == labels)).sum(1))


def test_sorted_counts_round_as_pairs_do():
    """Offsets far larger than the spread: many rounded differences are equal to the radius."""
    rng = np.random.default_rng(0)
    x = (1000.0 + rng.normal(size=4001) * np.float32(1e-3)).astype(np.float32)
    x[:500] = rng.normal(size=500)
    distances = np.abs(x[:, None] - x)
    radius = np.sort(distances, 1)[:, 7]
    for strict in (True, False):
        inside = distances < radius[:, None] if strict else distances <= radius[:, None]
        np.fill_diagonal(inside, False)
        np.testing.assert_array_equal(count_within(x, radius, strict=strict), inside.sum(1))


@pytest.mark.parametrize("norm", ["chebyshev", "euclidean"])
def test_the_radius_of_the_kth_neighbour_holds_k_minus_one_and_k(norm):
    """Both functions round alike: the k-th neighbour is on the boundary, neither inside nor outside."""
    for d in (1, 2, 5):
        (x,) = draw(d, 500, d)
        radius = find_neighbors([x], k=4, norm=norm).distances[:, -1]
        np.testing.assert_array_equal(count_within(x, radius, norm=norm), 3)
        np.testing.assert_array_equal(count_within(x, radius, norm=norm, strict=False), 4)


def test_labels_keep_neighbours_apart():
    spaces = draw(3, 90, 2, 1)
    labels = np.arange(90) % 4
    labels[:2] = 7  # a class of two: one neighbour each
    found = find_neighbors(spaces, k=3, labels=labels)
    _, expected = oracle(spaces, 3, "chebyshev", labels)
    np.testing.assert_array_equal(found.distances, expected)
    assert np.isinf(found.distances[:2, 1:]).all() and found.indices[:2, 0].tolist() == [1, 0]


@pytest.mark.parametrize("norm", ["chebyshev", "euclidean"])
def test_duplicates_are_at_distance_zero(norm):
    x = np.repeat(draw(5, 20, 3)[0] * 1e3, 3, axis=0)
    found = find_neighbors([x], k=3, norm=norm)
    np.testing.assert_array_equal(found.distances[:, :2], 0.0)
    assert (found.distances[:, 2] > 0).all()
    np.testing.assert_array_equal(count_within(x, np.zeros(60, np.float32), norm=norm, strict=False), 2)
    np.testing.assert_array_equal(count_within(x, np.zeros(60, np.float32), norm=norm), 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_gives_nan(bad):
    x, y = draw(6, 40, 2, 1)
    y[7, 0] = bad
    assert np.isnan(find_neighbors([x, y], k=2).distances).all()


def test_vmap_is_a_loop(x64):
    x = np.stack([draw(seed, 80, 2)[0] for seed in range(3)]).astype(np.float64)
    together = jax.vmap(lambda x: find_neighbors([x], k=3))(x)
    counts = jax.vmap(count_within)(x, together.distances[..., -1])
    assert together.distances.dtype == jnp.float64
    for i in range(3):
        one = find_neighbors([x[i]], k=3)
        np.testing.assert_array_equal(together.distances[i], one.distances)
        np.testing.assert_array_equal(together.indices[i], one.indices)
        np.testing.assert_array_equal(counts[i], 2)


def test_malformed_calls():
    x = jnp.zeros((5, 2))
    for arguments, match in [
        (dict(spaces=[x], k=5), "find_neighbors: spaces have 5 rows; expected more than k = 5"),
        (dict(spaces=[x], k=0), "find_neighbors: k is 0"),
        (dict(spaces=[x], k=1.0), "find_neighbors: k is 1.0; expected an integer"),
        (dict(spaces=[], k=1), "find_neighbors: spaces is list; expected a non-empty sequence"),
        (dict(spaces=x, k=1), "find_neighbors: spaces is .*; expected a non-empty sequence"),
        (dict(spaces=[x, jnp.zeros((4, 1))], k=1), r"find_neighbors: spaces\[1\] has 4 rows"),
        (dict(spaces=[x], k=1, norm="l1"), "find_neighbors: norm is 'l1'"),
        (dict(spaces=[x], k=1, tile=0), "find_neighbors: tile is 0"),
        (dict(spaces=[x], k=1, labels=jnp.zeros(4, int)), "find_neighbors: labels has shape"),
    ]:
        with pytest.raises(ValueError, match=match):
            find_neighbors(**arguments)
    for arguments, match in [
        (dict(x=x, radius=jnp.zeros(4)), "count_within: radius has shape"),
        (dict(x=x, radius=jnp.zeros(5, int)), "count_within: radius has dtype"),
        (dict(x=x, radius=jnp.zeros(5), strict=1), "count_within: strict is 1"),
        (dict(x=jnp.zeros((5, 2, 1)), radius=jnp.zeros(5)), "count_within: x has shape"),
        (dict(x=x, radius=jnp.zeros(5), norm=2), "count_within: norm is 2"),
    ]:
        with pytest.raises(ValueError, match=match):
            count_within(**arguments)
