"""The search in the order of one feature against all distances in numpy, with long queues and short ones."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.information.neighbors import count_within, find_neighbors
from jaxdiv.information.neighbors.sorted_search import search_sorted, sorted_reach
from tests.information.neighbors.test_neighbors import draw, oracle


@pytest.mark.parametrize("grid", [False, True], ids=["continuous", "grid"])
@pytest.mark.parametrize("norm", ["chebyshev", "euclidean"])
@pytest.mark.parametrize("case", [(65, 1, (1,), 3), (131, 5, (1, 1), 9), (203, 3, (2, 1), 40)], ids=str)
def test_neighbors_are_those_of_all_distances(case, norm, grid):
    """Reaches so short that many rows are looked for among all points; numbers that no tile divides."""
    count, k, dims, reach = case
    spaces = draw(count, count, *dims, grid=grid)
    found = jax.jit(lambda *spaces: search_sorted(spaces, k, norm, 32, reach))(*spaces)
    joint, expected = oracle(spaces, k, norm)
    tolerance = 0.0 if norm == "chebyshev" else 3e-7
    np.testing.assert_allclose(found.distances, expected, rtol=tolerance, atol=0.0)
    named = np.take_along_axis(joint, np.asarray(found.indices), 1)
    np.testing.assert_allclose(named, found.distances, rtol=tolerance)
    assert all(len(set(row)) == k for row in found.indices.tolist())


def test_the_public_search_takes_it_and_heavy_tails_and_constants_come_out_right():
    count, k = 1500, 2
    assert sorted_reach(count, 2, k) is not None
    rng = np.random.default_rng(0)
    samples = rng.standard_cauchy((3, count, 2)).astype(np.float32)
    samples[1, :, 0] = 2.5  # every point is at the end of every window
    samples[2, 1::2] = samples[2, ::2]
    find = jax.jit(partial(find_neighbors, k=k))
    for x in samples:
        found = find([x])
        np.testing.assert_array_equal(found.distances, oracle([x], k, "chebyshev")[1])
        if len(np.unique(x[:, 0])) == count:
            np.testing.assert_array_equal(count_within(x, found.distances[:, -1]), k - 1)


def test_vmap_is_a_loop():
    x = np.stack(draw(3, 90, 2, 2))
    x[1] *= np.exp(3 * np.abs(x[1]))  # another queue
    one = jax.jit(lambda x: search_sorted((x,), 2, "chebyshev", 16, 5))
    together = jax.jit(jax.vmap(lambda x: search_sorted((x,), 2, "chebyshev", 16, 5)))(x)
    for i in range(2):
        np.testing.assert_array_equal(together.distances[i], one(x[i]).distances)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_gives_nan(bad):
    (x,) = draw(0, 1500, 2)
    x[7, 0] = bad
    assert np.isnan(jax.jit(partial(find_neighbors, k=2))([x]).distances).all()


def test_inputs_are_stopped():
    x = jnp.asarray(draw(0, 1500, 2)[0])
    assert not jnp.any(jax.grad(lambda x: jnp.sum(find_neighbors([x], k=2).distances))(x))


def test_the_reach_grows_with_the_dimension_until_it_does_not_pay():
    assert sorted_reach(10**6, 1, 5) == 5
    assert sorted_reach(10**6, 2, 5) == 2237 and sorted_reach(10**6, 3, 5) == 17100
    assert sorted_reach(10**6, 4, 5) is None and sorted_reach(100, 2, 5) is None
