"""The Monge gap: its offset, optimal and other maps, exact assignments."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from jaxdiv.transport import cosine, epsilon_schedule, l1, monge_gap, sqeuclidean
from tests.transport.problems import clouds, squares

gap_of = jax.jit(monge_gap, static_argnames=("cost_fn", "num_iters", "tol", "chunk_size"))


def rotated(x, angle):
    c, s = np.cos(angle), np.sin(angle)
    return x @ np.array([[c, s], [-s, c]], x.dtype)


def test_is_the_exact_gap_for_small_epsilon(x64):
    x = clouds(14, 1, dtype=np.float64)[0]
    settings = {"epsilon": epsilon_schedule(10.0, 0.003, num_iters=3000), "num_iters": 3000}
    for y in (rotated(x, 1.0), x[::-1] * 2.0, x + np.sin(3 * x)):
        cost = squares(x, y)
        exact = np.trace(cost) / 14 - cost[linear_sum_assignment(cost)].mean()
        found = float(gap_of(x, y, **settings))
        assert exact + 0.003 * np.log(14) - 1e-5 <= found <= exact + 0.003 * 2 * np.log(14) + 1e-5


def test_the_identity_has_the_offset_alone(x64):
    """A plan of entropy log n costs nothing, so epsilon log n is reached where epsilon is small beside distances."""
    x = np.arange(12.0)[:, None]
    found = gap_of(x, x, epsilon=0.01)
    np.testing.assert_allclose(found, 0.01 * np.log(12), rtol=1e-9)


@pytest.mark.parametrize("cost_fn", [sqeuclidean, l1, cosine])
@pytest.mark.parametrize("num_iters", [1, 5, 100])
def test_never_below_the_offset(cost_fn, num_iters):
    x, y = clouds(15, 15, 3, batch=(30,))
    for epsilon in (0.05, 1.0, 20.0):
        gap = gap_of(x, y, epsilon=epsilon, cost_fn=cost_fn, num_iters=num_iters)
        assert gap.shape == (30,) and gap.dtype == jnp.float32
        assert float(jnp.min(gap)) >= epsilon * np.log(15) * (1 - 1e-5) - 1e-5


def euclidean(x, y):
    """Written for one pair of clouds [n, d] and [m, d], as users write it."""
    return jnp.sqrt(jnp.sum((x[:, None] - y[None]) ** 2, axis=-1))


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_a_cost_for_one_pair_of_clouds_is_paired_row_by_row(chunk_size, x64):
    x, y = clouds(14, 14, dtype=np.float64)
    cost = np.asarray(euclidean(x, y))
    exact = np.trace(cost) / 14 - cost[linear_sum_assignment(cost)].mean()
    settings = {"epsilon": epsilon_schedule(10.0, 0.003, num_iters=3000), "num_iters": 3000}
    found = float(gap_of(x, y, cost_fn=euclidean, chunk_size=chunk_size, **settings))
    assert exact + 0.003 * np.log(14) - 1e-5 <= found <= exact + 0.003 * 2 * np.log(14) + 1e-5


def test_the_gradient_of_a_convex_function_is_optimal(x64):
    """log cosh summed, a positive matrix: both are optimal for squared distances and the gap is the identity's."""
    x = clouds(16, 1, dtype=np.float64)[0]
    positive = np.array([[2.0, 0.5], [0.5, 1.0]])
    epsilon = 1e-3
    settings = {"epsilon": epsilon_schedule(10.0, epsilon, num_iters=4000), "num_iters": 4000}
    for y in (x @ positive, np.tanh(x), x + 3.0):
        assert float(gap_of(x, y, **settings)) <= 2 * epsilon * np.log(16) + 1e-6


def test_rotations_cost_more_the_farther_they_turn(x64):
    x = np.random.default_rng(0).normal(size=(200, 2))
    angles = np.linspace(0.0, np.pi, 7)
    gaps = [float(gap_of(x, rotated(x, angle), epsilon=0.1, num_iters=300)) for angle in angles]
    assert (np.diff(gaps) > 0).all() and gaps[-1] > 1.0


def test_descending_the_gap_finds_an_optimal_map_of_points():
    """Points that move down the gap and nothing else end with a gap near the offset."""
    x = clouds(10, 1)[0]
    y = rotated(x, 2.5)
    gap = jax.jit(functools.partial(gap_of, epsilon=0.05, num_iters=300))
    slope = jax.jit(jax.grad(gap, argnums=1))
    start = float(gap(x, y))
    for _ in range(150):
        y = y - 0.3 * 10 * slope(x, y)
    assert float(gap(x, y)) < 0.05 * 2 * np.log(10) + 0.05 * start


def test_batches_blocks_and_dtypes_agree():
    x, y = clouds(9, 9, batch=(3,))
    plain = gap_of(x, y, epsilon=0.5)
    np.testing.assert_allclose(jax.vmap(lambda x, y: gap_of(x, y, epsilon=0.5))(x, y), plain, rtol=1e-5)
    np.testing.assert_allclose(gap_of(x, y, epsilon=0.5, chunk_size=4), plain, rtol=1e-5)
    np.testing.assert_allclose(gap_of(x, y, epsilon=0.5, num_iters=900, tol=1e-6), plain, rtol=1e-3)
    half = gap_of(jnp.asarray(x, jnp.bfloat16), jnp.asarray(y, jnp.bfloat16), epsilon=0.5)
    assert half.dtype == jnp.float32
    order = np.random.default_rng(0).permutation(9)
    np.testing.assert_allclose(gap_of(x[:, order], y[:, order], epsilon=0.5), plain, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((np.zeros((3, 2), np.float32), np.zeros((4, 2), np.float32)), {}, r"mapped has shape \(4, 2\)"),
        ((np.zeros((3, 2), np.float32), np.zeros((3, 1), np.float32)), {}, r"mapped has shape \(3, 1\)"),
        ((np.zeros(3, np.float32), np.zeros(3, np.float32)), {}, r"samples has shape \(3,\)"),
        ((np.zeros((3, 2), np.int32), np.zeros((3, 2), np.float32)), {}, "samples has dtype int32"),
        ((None, np.zeros((3, 2), np.float32)), {}, "samples "),
        ((np.zeros((3, 2), np.float32),) * 2, {"cost_fn": 3}, "cost_fn is 3"),
        ((np.zeros((3, 2), np.float32),) * 2, {"chunk_size": -1}, "chunk_size is -1"),
    ],
)
def test_a_bad_argument_is_named(arguments, settings, message):
    with pytest.raises(ValueError, match="^monge_gap: " + message):
        monge_gap(*arguments, epsilon=1.0, **settings)


@pytest.mark.parametrize("settings", [{"epsilon": 0.0}, {"num_iters": 0}, {"tol": "x"}, {"unroll": 2}])
def test_a_bad_setting_of_the_loop_is_named(settings):
    [name] = settings
    x = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match=f"^monge_gap: {name} is "):
        monge_gap(x, x, **{"epsilon": 1.0} | settings)
